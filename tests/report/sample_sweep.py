"""A small finished sweep, made up by hand: two splits, two widths, one attacker."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from records import codec
from records.attack import Level
from records.grid import Grid, Headline
from records.manifest import DataRecord, SetRecord
from records.recipe import AttackRecipe, Recipe
from records.sweep import (
    Candidate,
    CellFile,
    FailedGate,
    Group,
    GroupArtifact,
    GroupLevel,
    PointLatency,
    Range,
    Sweep,
    SweepTiming,
)

SHA = "ab" * 32
_ONNX = "edge_int8_wire_onnx"


def sample_sweep(*, valid: bool = True, failed: bool = False, latency: bool = True) -> Sweep:
    """Return the record; ``failed`` makes a control of features.3 at 2 bits fail."""
    a_set = SetRecord(count=10, sha256=SHA)
    grid = Grid(
        name="sample <sweep>",
        base=Recipe(),
        splits=("features.1", "features.3"),
        boundary_bits=(8, 2),
        attackers={"adaptive": AttackRecipe()},
        headline=(Headline(split="features.3", bits=8, seeds=(0, 1)),),
        latency=latency,
    )
    points: tuple[tuple[str, Literal[8, 2]], ...] = (
        ("features.1", 8),
        ("features.1", 2),
        ("features.3", 8),
        ("features.3", 2),
    )
    gate = FailedGate(stage="attack", name="ceiling", artifact=None, measured=12.5, limit=40.0)
    return Sweep(
        grid=grid,
        grid_sha256=SHA,
        checkpoint_sha256=SHA,
        whole_network_top1=0.6123,
        data=DataRecord(
            source="photos",
            native_size=32,
            classes=("a", "b"),
            train=a_set,
            calibration=a_set,
            attacker=a_set,
            victim=a_set,
            attacker_pool="held-out",
            dropped_duplicates=0,
        ),
        image_bytes=3072,
        groups=tuple(
            _group(split, bits, gate if failed and (split, bits) == points[-1] else None)
            for split, bits in points
        ),
        candidates=(
            _candidate("features.1", None, 0.0, 15.0),
            _candidate("features.1", 8, 0.25, 14.5),
            _candidate("features.1", 2, 1.75, 11.5),
            _candidate("features.3", None, 0.0, 9.0),
            _candidate("features.3", 8, 0.5, 8.75),
            _candidate("features.3", 2, 3.25, 4.125, pareto=True),
        ),
        gates_passed=not failed,
        versions={"edgeveil": "0.1.0", "torch": "2"},
        timing=SweepTiming(
            latency=tuple(_latency(s, b, valid=valid) for s, b in points) if latency else ()
        ),
    )


def write_sample_sweep(folder: Path) -> Path:
    """Write the record as a sweep leaves it; return the folder."""
    codec.write(folder / "sweep.json", sample_sweep())
    return folder


def _group(split: str, bits: Literal[8, 2], gate: FailedGate | None) -> Group:
    two = (split, bits) == ("features.3", 8)
    seeds = (0, 1) if two else (0,)
    figures = Range(mean=24.5, low=24.25 if two else 24.5, high=24.75 if two else 24.5)
    return Group(
        split=split,
        boundary_bits=bits,
        attacker="adaptive",
        seeds=seeds,
        floor_db=12.0,
        verdict="INCONCLUSIVE" if gate is not None else "HOLDS" if bits == 2 else "DENIED",
        note=None,
        gates_passed=gate is None,
        failed_gates=() if gate is None else (gate,),
        artifacts=(
            GroupArtifact(
                name=_ONNX,
                precision="int8",
                levels=(_level("A0", figures), _level("A1", figures)),
                leak_db=figures,
                verdict="DENIED" if bits == 8 else "HOLDS",
                advantage_db=0.375 if bits == 8 else 4.875,
                lower_db=0.25 if bits == 8 else 4.5,
                upper_db=0.5 if bits == 8 else 5.25,
            ),
        ),
        cells=tuple(
            CellFile(file=f"cells/{split}.b{bits}.adaptive.s{s}.json", sha256=SHA) for s in seeds
        ),
        joint=CellFile(file=f"joint/{split}.b{bits}.adaptive.joint.json", sha256=SHA)
        if two
        else None,
    )


def _level(level: Level, figures: Range) -> GroupLevel:
    share = Range(mean=0.375, low=0.375, high=0.375)
    return GroupLevel(
        level=level,
        queries=None,
        victims=10,
        recon_psnr_db=figures,
        recon_ssim=share,
        reidentified=share,
        label_top1=share,
    )


def _candidate(
    split: str, bits: Literal[8, 2] | None, drop: float, leak: float, *, pareto: bool = False
) -> Candidate:
    fp32 = bits is None
    return Candidate(
        split=split,
        boundary_bits=bits,
        artifact="edge_fp32_onnx" if fp32 else _ONNX,
        reference=fp32,
        bundle_id=SHA,
        top1=0.6,
        drop_points=None if fp32 else (drop, drop - 0.5, drop + 0.5),
        leak_db=leak,
        leak_by="adaptive A1",
        recon_psnr_db=leak + 12.0,
        verdict=None if fp32 else "DENIED",
        wire_bytes=6144 if fp32 else 192 * (bits or 0),
        weight_bytes=11_400,
        file_bytes=44_344 if fp32 else 32_700,
        pareto=pareto,
    )


def _latency(split: str, bits: Literal[8, 2], *, valid: bool) -> PointLatency:
    return PointLatency(
        split=split,
        boundary_bits=bits,
        valid=valid,
        machine="a machine",
        fp32_p50_ms=0.75 if valid else None,
        int8_p50_ms=0.5 if valid else None,
        ratio=1.5 if valid else None,
        low=1.25 if valid else None,
        high=1.75 if valid else None,
        verdict="faster" if valid else "not given",
        notes=("measured on x86",),
    )
