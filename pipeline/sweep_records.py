"""From the records of one check and one attack to the record of a cell."""

from __future__ import annotations

import math
from statistics import fmean

from pipeline.sweep_plan import Cell, Frame, cell_key
from records.attack import (
    ArtifactAttack,
    ArtifactVerdict,
    AttackRecord,
    Level,
    LevelResult,
    failed_gates,
)
from records.counted import counted
from records.errors import RecordError
from records.manifest import Artifact, Manifest
from records.parity import ArtifactCheck, CheckRecord
from records.sweep import CellArtifact, CellLevel, FailedGate, SweepCell

#: A loss of accuracy is what a sweep looks for: an axis of its table, not a fault of the tool.
_NO_GATE_HERE = "accuracy_drop_points"


def cell_record(
    frame: Frame, cell: Cell, manifest: Manifest, check: CheckRecord, attack: AttackRecord
) -> SweepCell:
    """Return a cell's record: figures, hashes and verdicts, nothing of the clock.

    Args:
        frame: the sweep.
        cell: which cell.
        manifest: of its point's bundle.
        check: of the same bundle.
        attack: of the same bundle, with the cell's attacker and seeds.

    Raises:
        RecordError: the bundle sends other bits than its point says.
    """
    if manifest.wire.bits != cell.point.bits:
        raise RecordError(
            f"the bundle of {cell.point.name} sends {counted(manifest.wire.bits, 'bit')} a value; "
            f"remove points/{cell.point.name} and sweep again"
        )
    values = math.prod(manifest.wire.shape)
    failed = (*_failed_checks(check), *_failed_controls(attack))
    attacked = {a.name: a for a in attack.artifacts}
    verdicts = {v.artifact: v for v in attack.verdicts}
    return SweepCell(
        key=cell_key(frame, cell, manifest.bundle_id),
        split=cell.point.split,
        boundary_bits=cell.point.bits,
        attacker=cell.attacker,
        seeds=cell.seeds,
        recipe=attack.recipe,
        bundle_id=manifest.bundle_id,
        checkpoint_sha256=manifest.checkpoint_sha256,
        data=manifest.data,
        boundary_shape=manifest.boundary.shape,
        wire_values=values,
        wire_bytes=manifest.wire.packed_bytes,
        floor_db=attack.controls.floor.recon_psnr_db.mean,
        ceiling_db=attack.controls.ceiling.recon_psnr_db.mean,
        verdict=attack.verdict,
        note=attack.note,
        gates_passed=not failed,
        failed_gates=failed,
        artifacts=tuple(
            _artifact(a, attacked[a.name], verdicts.get(a.name), _checked(a.name, check))
            for a in manifest.artifacts
            if a.role == "edge" and a.name in attacked
        ),
        versions=dict(attack.versions),
    )


def _failed_checks(check: CheckRecord) -> tuple[FailedGate, ...]:
    return tuple(
        FailedGate(
            stage="check", name=g.name, artifact=g.artifact, measured=g.measured, limit=g.limit
        )
        for g in check.gates
        if not g.passed and g.name != _NO_GATE_HERE
    )


def _failed_controls(attack: AttackRecord) -> tuple[FailedGate, ...]:
    return tuple(
        FailedGate(
            stage="attack", name=g.name, artifact=g.artifact, measured=g.measured, limit=g.limit
        )
        for g in failed_gates(attack)
    )


def _checked(name: str, check: CheckRecord) -> ArtifactCheck | None:
    """The artifact as it runs on this host, not the pass with optimizations off."""
    rows = (a for a in check.artifacts if a.artifact == name and a.mode != "optimizations-off")
    return next(rows, None)


def _artifact(
    artifact: Artifact,
    attacked: ArtifactAttack,
    verdict: ArtifactVerdict | None,
    checked: ArtifactCheck | None,
) -> CellArtifact:
    drop = None if checked is None else checked.accuracy.drop_points
    return CellArtifact(
        name=artifact.name,
        file=artifact.file,
        precision=artifact.precision,
        boundary="wire" if artifact.boundary == "wire" else "float",
        runtime=attacked.runtime,
        runtime_mode=attacked.runtime_mode,
        weight_bytes=artifact.weight_bytes,
        file_bytes=artifact.size,
        features_sha256=attacked.features_sha256,
        same_outputs_as=attacked.same_outputs_as,
        top1=None if checked is None else checked.accuracy.top1,
        drop_points=None if drop is None else (drop.estimate, drop.low, drop.high),
        levels=_levels(attacked),
        strongest=attacked.strongest,
        max_leak_db=attacked.max_leak_db,
        verdict=None if verdict is None else verdict.verdict,
        advantage_db=None if verdict is None else verdict.advantage_db,
        lower_db=None if verdict is None else verdict.lower_db,
        upper_db=None if verdict is None else verdict.upper_db,
    )


def _levels(attacked: ArtifactAttack) -> tuple[CellLevel, ...]:
    """Return one row a level (and query budget), means over the seeds."""
    found: dict[tuple[Level, int | None], list[LevelResult]] = {}
    for one in attacked.levels:
        found.setdefault((one.level, one.queries), []).append(one)
    return tuple(
        CellLevel(
            level=level,
            queries=queries,
            victims=seeds[0].victims,
            recon_psnr_db=fmean(s.result.recon_psnr_db.mean for s in seeds),
            recon_psnr_pooled_db=fmean(s.result.recon_psnr_pooled_db for s in seeds),
            recon_ssim=fmean(s.result.recon_ssim.mean for s in seeds),
            leak_db=fmean(s.result.leak_db for s in seeds),
            reidentified=fmean(s.recovery.reidentified for s in seeds),
            label_top1=fmean(s.recovery.label_top1 for s in seeds),
        )
        for (level, queries), seeds in found.items()
    )
