"""From the records of a run to the figures that a page quotes."""

from __future__ import annotations

from records.attack import ArtifactAttack, AttackRecord, Level
from records.bench import BenchRecord
from records.errors import InputError
from records.manifest import Artifact, Manifest
from records.parity import ArtifactCheck, CheckRecord
from records.results import (
    ArtifactFigures,
    AttackFigures,
    Results,
    SpeedFigures,
    SplitFigures,
)
from report.leaks import mean_psnr_db
from report.load import RunRecords, SplitRecords

#: Libraries without which the figures could not be had again.
_VERSIONS = ("edgeveil", "torch", "onnxruntime", "python")


def results_of(run: RunRecords) -> Results:
    """Take the quoted figures out of a run's records; nothing is computed but means over seeds.

    Args:
        run: the records of a run folder; a split without a manifest is left out.

    Returns:
        Sizes in bytes, latencies in ms, PSNR in dB, shares 0–1, drops in percentage points.

    Raises:
        InputError: the run has no bundle yet.
    """
    manifests = [s.manifest for s in run.splits if s.manifest is not None]
    if not manifests:
        raise InputError(f"{run.folder} holds no bundle; finish the run first")
    first = manifests[0]
    machines = [s.bench.machine.cpu_model for s in run.splits if s.bench is not None]
    training = run.training
    return Results(
        recipe=first.recipe.name,
        data=first.data.source.partition(":")[0],
        machine=machines[0] if machines else None,
        whole_network_top1=None if training is None else training.victim_accuracy.top1,
        versions={name: first.versions[name] for name in _VERSIONS if name in first.versions},
        splits=tuple(_split(s, s.manifest) for s in run.splits if s.manifest is not None),
    )


def _split(records: SplitRecords, manifest: Manifest) -> SplitFigures:
    attack, bench = records.attack, records.bench
    native = manifest.preprocessing.native_size
    return SplitFigures(
        split=manifest.split,
        bundle_id=manifest.bundle_id,
        boundary_shape=manifest.boundary.shape,
        wire_bits=manifest.wire.bits,
        wire_bytes=manifest.wire.packed_bytes,
        image_bytes=native * native * 3,
        margin_db=manifest.recipe.attack.margin_db,
        floor_db=None if attack is None else attack.controls.floor.recon_psnr_db.mean,
        ceiling_db=None if attack is None else attack.controls.ceiling.recon_psnr_db.mean,
        attacker_images=(manifest if attack is None else attack).data.attacker.count,
        victims=(manifest if attack is None else attack).data.victim.count,
        attacker_seeds=manifest.recipe.attack.seeds,
        bench_valid=None if bench is None else bench.valid,
        verdict=None if attack is None else attack.verdict,
        artifacts=tuple(_artifact(a, records) for a in manifest.artifacts if a.role == "edge"),
    )


def _artifact(artifact: Artifact, records: SplitRecords) -> ArtifactFigures:
    checked = _checked(artifact.name, records.check)
    lsb = None if checked is None else checked.lsb
    drop = None if checked is None else checked.accuracy.drop_points
    return ArtifactFigures(
        name=artifact.name,
        file=artifact.file,
        precision=artifact.precision,
        boundary="wire" if artifact.boundary == "wire" else "float",
        weight_bytes=artifact.weight_bytes,
        file_bytes=artifact.size,
        top1=None if checked is None else checked.accuracy.top1,
        drop_points=None if drop is None else (drop.estimate, drop.low, drop.high),
        share_identical=None if lsb is None else lsb.share_identical,
        share_within_1_lsb=None if lsb is None else lsb.share_within_1_lsb,
        max_lsb=None if lsb is None else lsb.max_lsb,
        speed=_speed(artifact.name, records.bench),
        attack=_attack(artifact.name, records.attack),
    )


def _checked(name: str, check: CheckRecord | None) -> ArtifactCheck | None:
    """The artifact as it runs on this host, not the pass with optimizations off."""
    if check is None:
        return None
    rows = [a for a in check.artifacts if a.artifact == name and a.mode != "optimizations-off"]
    return rows[0] if rows else None


def _speed(name: str, bench: BenchRecord | None) -> SpeedFigures | None:
    if bench is None:
        return None
    measured = [x for x in bench.latency if x.artifact == name and x.threads == 1]
    if not measured:
        return None
    ups = [x for x in bench.speedups if x.int8 == name and x.threads == 1 and x.same_runtime]
    return SpeedFigures(
        p50_ms=measured[0].timing.p50_ms,
        ratio=ups[0].timing.ratio if ups else None,
        low=ups[0].timing.low if ups else None,
        high=ups[0].timing.high if ups else None,
        verdict=ups[0].timing.verdict if ups else None,
    )


def _attack(name: str, attack: AttackRecord | None) -> AttackFigures | None:
    if attack is None:
        return None
    rows = [a for a in attack.artifacts if a.name == name]
    if not rows:
        return None
    verdicts = [v for v in attack.verdicts if v.artifact == name]
    return AttackFigures(
        recon_psnr_db=_psnr_by_level(rows[0]),
        max_leak_db=rows[0].max_leak_db,
        verdict=verdicts[0].verdict if verdicts else None,
        advantage_db=verdicts[0].advantage_db if verdicts else None,
        lower_db=verdicts[0].lower_db if verdicts else None,
        upper_db=verdicts[0].upper_db if verdicts else None,
    )


def _psnr_by_level(row: ArtifactAttack) -> dict[Level, float]:
    found: dict[Level, float] = {}
    for level in dict.fromkeys(result.level for result in row.levels):
        mean = mean_psnr_db(row, level)
        if mean is not None:
            found[level] = mean
    return found
