"""What a sweep consists of: its points, its cells, their seeds, names, files and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from records import codec
from records.errors import RecordError
from records.grid import BoundaryBits, Grid
from records.hashing import sha256_record
from records.manifest import DataRecord, Sha256
from records.recipe import AttackRecipe, Recipe
from records.sweep import SweepCell

#: Raised whenever a cell's record comes out otherwise from the same inputs.
SWEEP_VERSION = 1


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One split at one bit width: its bundle and check serve every attacker and seed."""

    split: str
    bits: BoundaryBits

    @property
    def name(self) -> str:
        """``features.3.b8``: the point's folder below ``points``."""
        return f"{self.split}.b{self.bits}"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One attack: an attacker on a point with one seed, or jointly with all seeds of its group."""

    point: Point
    attacker: str
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """``features.3.b8.adaptive.s0``, or ``….joint`` for all seeds of a group."""
        end = f"s{self.seeds[0]}" if len(self.seeds) == 1 else "joint"
        return f"{self.point.name}.{self.attacker}.{end}"

    @property
    def file(self) -> str:
        """The record's path below the sweep folder."""
        return f"{'cells' if len(self.seeds) == 1 else 'joint'}/{self.name}.json"


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The FP32 side of a split and seed: the same for all its bit widths, attackers in turn.

    Attackers share decoders: trained one after the other they are trained once.
    """

    split: str
    seed: int
    bits: BoundaryBits
    attackers: tuple[str, ...]

    @property
    def name(self) -> str:
        """For progress and messages."""
        return f"{self.split} FP32 seed {self.seed}"


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What every task of a sweep needs; sent to the workers as JSON.

    ``folder``: absolute, and the same for every worker. ``versions``: of the coordinator; a
    worker with others would give other bits.
    """

    folder: str
    grid: Grid
    data: DataRecord
    checkpoint_sha256: Sha256
    versions: dict[str, str]

    @property
    def root(self) -> Path:
        """The sweep folder."""
        return Path(self.folder)

    @property
    def checkpoint(self) -> Path:
        """The trained weights."""
        return self.root / "train" / "model.safetensors"

    @property
    def cache(self) -> Path:
        """Features and decoders, shared by all cells."""
        return self.root / "cache"

    def point_folder(self, point: Point) -> Path:
        """The folder of a point's bundle and check."""
        return self.root / "points" / point.name

    def recipe(self, point: Point) -> Recipe:
        """The base recipe at a point: one split, its boundary bits."""
        base = self.grid.base
        export = msgspec.structs.replace(
            base.export, splits=(point.split,), boundary_bits=point.bits
        )
        return msgspec.structs.replace(base, export=export)

    def attack_recipe(self, cell: Cell) -> AttackRecipe:
        """The cell's attacker with the cell's seeds."""
        return msgspec.structs.replace(self.grid.attackers[cell.attacker], seeds=cell.seeds)


@dataclass(frozen=True)
class Group:
    """All seeds of one attacker on one point."""

    point: Point
    attacker: str
    seeds: tuple[int, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """One cell a seed."""
        return tuple(Cell(point=self.point, attacker=self.attacker, seeds=(s,)) for s in self.seeds)

    @property
    def joint(self) -> Cell | None:
        """The record over all seeds; None where there is one seed only."""
        if len(self.seeds) == 1:
            return None
        return Cell(point=self.point, attacker=self.attacker, seeds=self.seeds)


def points_of(grid: Grid) -> tuple[Point, ...]:
    """Return every split at every bit width, in the grid's order."""
    return tuple(Point(split=s, bits=b) for s in grid.splits for b in grid.boundary_bits)


def groups_of(grid: Grid) -> tuple[Group, ...]:
    """Return every attacker on every point with its seeds, attackers one after the other.

    In this order cells that share decoders seldom run side by side.
    """
    return tuple(
        Group(point, attacker, _seeds(grid, point, attacker))
        for attacker in grid.attackers
        for point in points_of(grid)
    )


def _seeds(grid: Grid, point: Point, attacker: str) -> tuple[int, ...]:
    """Return the seeds of the last headline that names the group, else the grid's."""
    seeds = grid.seeds
    for one in grid.headline:
        here = one.split == point.split and one.bits == point.bits
        if here and (not one.attackers or attacker in one.attackers):
            seeds = one.seeds
    return seeds


def baselines_of(cells: tuple[Cell, ...]) -> tuple[Baseline, ...]:
    """Return what must be trained on FP32 features before these cells, one a split and seed."""
    found: dict[tuple[str, int], Baseline] = {}
    for cell in cells:
        for seed in cell.seeds:
            place = cell.point.split, seed
            known = found.get(place)
            attackers = () if known is None else known.attackers
            found[place] = Baseline(
                split=cell.point.split,
                seed=seed,
                bits=cell.point.bits if known is None else known.bits,
                attackers=tuple(dict.fromkeys((*attackers, cell.attacker))),
            )
    return tuple(found.values())


def cell_key(frame: Frame, cell: Cell, bundle_id: Sha256) -> Sha256:
    """Return the hash of everything that decides a cell's record."""
    inputs: Mapping[str, object] = {
        "version": SWEEP_VERSION,
        "cell": cell,
        "recipe": frame.attack_recipe(cell),
        "bundle": bundle_id,
        "data": frame.data,
        "versions": frame.versions,
    }
    return sha256_record(inputs)


def finished_cell(frame: Frame, cell: Cell, bundle_id: Sha256) -> SweepCell | None:
    """Return the cell's record when it is whole and was made from these inputs, else None."""
    path = frame.root / cell.file
    if not path.exists():
        return None
    try:
        record = codec.read(path, SweepCell)
    except RecordError:
        # Damaged, or another version's: it is made again.
        return None
    return record if record.key == cell_key(frame, cell, bundle_id) else None
