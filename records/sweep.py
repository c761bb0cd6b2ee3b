"""The records of a sweep: one a cell, without any wall-clock fact, and the table over all cells.

Two sweeps of one grid on one kind of machine give the same cell records byte for byte, however
often they were killed and whatever ran them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.attack import Level, Verdict
from records.grid import BoundaryBits, Grid
from records.manifest import DataRecord, Sha256
from records.recipe import AttackRecipe, Seed

CELL_SCHEMA = "edgeveil.sweep-cell/1"
SCHEMA = "edgeveil.sweep/1"
RECORD_NAME = "sweep.json"
GRID_NAME = "grid.json"

Bytes = Annotated[int, Meta(ge=0)]


class SweepPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the records' parts: frozen, keyword-only, unknown keys refused."""


class CellLevel(SweepPart, frozen=True, kw_only=True):
    """One attacker level, means over victims and seeds; ``leak_db`` is over the floor, in dB.

    ``queries``: the training pairs of A3, else None. ``victims``: how many were attacked.
    ``reidentified``, ``label_top1``: shares of `records.attack.Recovery`.
    """

    level: Level
    queries: int | None
    victims: Annotated[int, Meta(ge=1)]
    recon_psnr_db: float
    recon_psnr_pooled_db: float
    recon_ssim: float
    leak_db: float
    reidentified: float
    label_top1: float


class CellArtifact(SweepPart, frozen=True, kw_only=True):
    """One attacked edge artifact.

    ``drop_points``: top-1 lost against FP32 in percentage points: estimate, low, high of the
    check's interval. ``max_leak_db``: ``leak_db`` of the strongest level. The verdict and its
    bounds are None for the FP32 baseline.
    """

    name: str
    file: str
    precision: Literal["fp32", "int8"]
    boundary: Literal["float", "wire"]
    runtime: str
    runtime_mode: str
    weight_bytes: Bytes
    file_bytes: Bytes
    features_sha256: Sha256
    same_outputs_as: str | None
    top1: float | None
    drop_points: tuple[float, float, float] | None
    levels: tuple[CellLevel, ...]
    strongest: Level
    max_leak_db: float
    verdict: Verdict | None
    advantage_db: float | None
    lower_db: float | None
    upper_db: float | None


class FailedGate(SweepPart, frozen=True, kw_only=True):
    """A gate that failed; ``measured`` is None for "no difference at all"."""

    stage: Literal["check", "attack"]
    name: str
    artifact: str | None
    measured: float | None
    limit: float


class SweepCell(SweepPart, frozen=True, kw_only=True):
    """One cell: split × boundary bits × attacker × seed.

    A group with several seeds has one more record of this kind, with all of them in ``seeds``:
    its verdict is the paired bootstrap over victims and seeds. ``key``: hash of everything that
    decides the record; a record with another key is not this cell's. ``wire_bytes``: of one image,
    its values packed at ``boundary_bits`` each. ``gates_passed``: controls, export drift and
    parity; the accuracy limit of the check is no gate here, the loss is an axis of the table.
    """

    schema: Literal["edgeveil.sweep-cell/1"] = "edgeveil.sweep-cell/1"
    key: Sha256
    split: str
    boundary_bits: BoundaryBits
    attacker: str
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1)]
    recipe: AttackRecipe
    bundle_id: Sha256
    checkpoint_sha256: Sha256
    data: DataRecord
    boundary_shape: tuple[int, ...]
    wire_values: Annotated[int, Meta(ge=1)]
    wire_bytes: Annotated[int, Meta(ge=1)]
    floor_db: float
    ceiling_db: float
    verdict: Verdict
    note: str | None
    gates_passed: bool
    failed_gates: tuple[FailedGate, ...]
    artifacts: tuple[CellArtifact, ...]
    versions: dict[str, str]


class CellFile(SweepPart, frozen=True, kw_only=True):
    """A cell's record: its path below the sweep folder and its hash."""

    file: str
    sha256: Sha256


class Range(SweepPart, frozen=True, kw_only=True):
    """A figure over the attacker seeds."""

    mean: float
    low: float
    high: float


class GroupLevel(SweepPart, frozen=True, kw_only=True):
    """One attacker level over the seeds, as in `CellLevel`."""

    level: Level
    queries: int | None
    victims: Annotated[int, Meta(ge=1)]
    recon_psnr_db: Range
    recon_ssim: Range
    reidentified: Range
    label_top1: Range


class GroupArtifact(SweepPart, frozen=True, kw_only=True):
    """An artifact over all seeds of its group; the verdict is the joint one."""

    name: str
    precision: Literal["fp32", "int8"]
    levels: tuple[GroupLevel, ...]
    leak_db: Range
    verdict: Verdict | None
    advantage_db: float | None
    lower_db: float | None
    upper_db: float | None


class Group(SweepPart, frozen=True, kw_only=True):
    """All seeds of one split, bit width and attacker."""

    split: str
    boundary_bits: BoundaryBits
    attacker: str
    seeds: tuple[Seed, ...]
    floor_db: float
    verdict: Verdict
    note: str | None
    gates_passed: bool
    failed_gates: tuple[FailedGate, ...]
    artifacts: tuple[GroupArtifact, ...]
    cells: tuple[CellFile, ...]
    joint: CellFile | None


class Candidate(SweepPart, frozen=True, kw_only=True):
    """A row of the Pareto table: what is really sent, one artifact of one split and bit width.

    ``leak_db``: the worst over all attackers and levels, mean over seeds, in dB over the floor.
    ``pareto``: no other candidate is at least as good in accuracy drop, leak, wire bytes and file
    bytes and better in one. The FP32 edge of each split is a ``reference`` and takes no part.
    """

    split: str
    boundary_bits: BoundaryBits | None
    artifact: str
    reference: bool
    bundle_id: Sha256
    top1: float | None
    drop_points: tuple[float, float, float] | None
    leak_db: float
    leak_by: str
    recon_psnr_db: float
    verdict: Verdict | None
    wire_bytes: Bytes
    weight_bytes: Bytes
    file_bytes: Bytes
    pareto: bool


class PointLatency(SweepPart, frozen=True, kw_only=True):
    """FP32 and INT8 ONNX edge, one thread, milliseconds; figures of an INVALID run are None."""

    split: str
    boundary_bits: BoundaryBits
    valid: bool
    machine: str
    fp32_p50_ms: float | None
    int8_p50_ms: float | None
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str | None
    notes: tuple[str, ...]


class SweepTiming(SweepPart, frozen=True, kw_only=True):
    """What two sweeps of one grid differ in."""

    latency: tuple[PointLatency, ...]


class Sweep(SweepPart, frozen=True, kw_only=True):
    """A finished sweep; everything that its page shows is in here."""

    schema: Literal["edgeveil.sweep/1"] = "edgeveil.sweep/1"
    grid: Grid
    grid_sha256: Sha256
    checkpoint_sha256: Sha256
    whole_network_top1: float
    data: DataRecord
    image_bytes: Bytes
    groups: tuple[Group, ...]
    candidates: tuple[Candidate, ...]
    gates_passed: bool
    versions: dict[str, str]
    timing: SweepTiming


class CellTiming(SweepPart, frozen=True, kw_only=True):
    """How long a cell took, and where; beside the record, never in it."""

    cell: str
    host: str
    process: int
    started_at: str
    seconds: float
