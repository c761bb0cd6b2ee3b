"""From all cells of a sweep to its record: groups over seeds, candidates, the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import msgspec

from pipeline.sweep_plan import Cell, Frame
from pipeline.sweep_plan import Group as PlannedGroup
from records import codec
from records.hashing import sha256_bytes
from records.manifest import DataRecord
from records.sweep import (
    Candidate,
    CellArtifact,
    CellFile,
    CellLevel,
    Group,
    GroupArtifact,
    GroupLevel,
    PointLatency,
    Range,
    Sweep,
    SweepCell,
    SweepTiming,
)
from records.training import TrainingRecord

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Finished:
    """A planned group with its records, the joint one where it has several seeds."""

    plan: PlannedGroup
    cells: tuple[SweepCell, ...]
    joint: SweepCell

    @property
    def figures(self) -> Mapping[str, tuple[CellArtifact, ...]]:
        """Artifact name → its figures of each seed."""
        return {
            a.name: tuple(next(x for x in c.artifacts if x.name == a.name) for c in self.cells)
            for a in self.joint.artifacts
        }


def sweep_record(
    frame: Frame,
    training: TrainingRecord,
    finished: Sequence[Finished],
    latency: Sequence[PointLatency],
) -> Sweep:
    """Return the record of a finished sweep.

    Args:
        frame: the sweep.
        training: of the network.
        finished: every group, in the plan's order.
        latency: of every point, or of none.
    """
    groups = tuple(_group(one) for one in finished)
    return Sweep(
        grid=frame.grid,
        grid_sha256=sha256_bytes(codec.encode(frame.grid)),
        checkpoint_sha256=frame.checkpoint_sha256,
        whole_network_top1=training.victim_accuracy.top1,
        data=frame.data,
        image_bytes=_image_bytes(frame.data),
        groups=groups,
        candidates=with_pareto(_candidates(frame, finished)),
        gates_passed=all(group.gates_passed for group in groups),
        versions=frame.versions,
        timing=SweepTiming(latency=tuple(latency)),
    )


def with_pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Mark the candidates that no other one dominates; references take no part.

    One dominates another when it is at least as good in accuracy drop, leak, wire bytes and file
    bytes, and better in at least one (Pareto 1906; all four are to be low).
    """
    taking_part = [c for c in candidates if not c.reference]
    return tuple(
        msgspec.structs.replace(
            c, pareto=not c.reference and not any(_dominates(o, c) for o in taking_part)
        )
        for c in candidates
    )


def _dominates(one: Candidate, other: Candidate) -> bool:
    a, b = _costs(one), _costs(other)
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _costs(one: Candidate) -> tuple[float, float, float, float]:
    drop = float("inf") if one.drop_points is None else one.drop_points[0]
    return drop, one.leak_db, one.wire_bytes, one.file_bytes


def _image_bytes(data: DataRecord) -> int:
    return data.native_size * data.native_size * 3


def _group(one: Finished) -> Group:
    failed = tuple(
        dict.fromkeys(g for record in (*one.cells, one.joint) for g in record.failed_gates)
    )
    joint = one.plan.joint
    return Group(
        split=one.plan.point.split,
        boundary_bits=one.plan.point.bits,
        attacker=one.plan.attacker,
        seeds=one.plan.seeds,
        floor_db=one.joint.floor_db,
        verdict=one.joint.verdict,
        note=one.joint.note,
        gates_passed=not failed,
        failed_gates=failed,
        artifacts=tuple(_group_artifact(a, one.figures[a.name]) for a in one.joint.artifacts),
        cells=tuple(
            _file(cell, record) for cell, record in zip(one.plan.cells, one.cells, strict=True)
        ),
        joint=None if joint is None else _file(joint, one.joint),
    )


def _group_artifact(joint: CellArtifact, seeds: tuple[CellArtifact, ...]) -> GroupArtifact:
    return GroupArtifact(
        name=joint.name,
        precision=joint.precision,
        levels=tuple(
            _group_level([one.levels[i] for one in seeds]) for i in range(len(joint.levels))
        ),
        leak_db=_range([one.max_leak_db for one in seeds]),
        verdict=joint.verdict,
        advantage_db=joint.advantage_db,
        lower_db=joint.lower_db,
        upper_db=joint.upper_db,
    )


def _group_level(seeds: Sequence[CellLevel]) -> GroupLevel:
    """Return one level over its seeds: every cell of a group has the same levels in one order."""
    first = seeds[0]
    return GroupLevel(
        level=first.level,
        queries=first.queries,
        victims=first.victims,
        recon_psnr_db=_range([s.recon_psnr_db for s in seeds]),
        recon_ssim=_range([s.recon_ssim for s in seeds]),
        reidentified=_range([s.reidentified for s in seeds]),
        label_top1=_range([s.label_top1 for s in seeds]),
    )


def _range(values: Sequence[float]) -> Range:
    return Range(mean=fmean(values), low=min(values), high=max(values))


def _file(cell: Cell, record: SweepCell) -> CellFile:
    return CellFile(file=cell.file, sha256=sha256_bytes(codec.encode(record)))


def _candidates(frame: Frame, finished: Sequence[Finished]) -> list[Candidate]:
    """Return FP32 once a split, then what each point really sends, worst attacker of each."""
    found: list[Candidate] = []
    for split in frame.grid.splits:
        here = [f for f in finished if f.plan.point.split == split]
        found += [_candidate(_strongest(here, name), name) for name in _names(here, "fp32")]
        for bits in frame.grid.boundary_bits:
            point = [f for f in here if f.plan.point.bits == bits]
            names = _names(point, "int8")
            found += [_candidate(_strongest(point, name), name) for name in names]
    return found


def _names(finished: Sequence[Finished], precision: str) -> tuple[str, ...]:
    """Return the artifacts whose boundary is sent: the wire's, or FP32's floats."""
    boundary = "wire" if precision == "int8" else "float"
    return tuple(
        a.name
        for a in finished[0].joint.artifacts
        if a.precision == precision and a.boundary == boundary
    )


def _strongest(finished: Sequence[Finished], name: str) -> Finished:
    return max(finished, key=lambda f: _mean_leak(f, name))


def _mean_leak(one: Finished, name: str) -> float:
    return fmean(a.max_leak_db for a in one.figures[name])


def _candidate(one: Finished, name: str) -> Candidate:
    joint = next(a for a in one.joint.artifacts if a.name == name)
    fp32 = joint.precision == "fp32"
    leak = _mean_leak(one, name)
    return Candidate(
        split=one.plan.point.split,
        boundary_bits=None if fp32 else one.plan.point.bits,
        artifact=name,
        reference=fp32,
        bundle_id=one.joint.bundle_id,
        top1=joint.top1,
        drop_points=joint.drop_points,
        leak_db=leak,
        leak_by=f"{one.plan.attacker} {joint.strongest}",
        recon_psnr_db=leak + one.joint.floor_db,
        verdict=joint.verdict,
        wire_bytes=FLOAT_BYTES * one.joint.wire_values if fp32 else one.joint.wire_bytes,
        weight_bytes=joint.weight_bytes,
        file_bytes=joint.file_bytes,
        pareto=False,
    )
