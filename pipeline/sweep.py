"""``edgeveil sweep``: train once, export and check every point, attack every cell, tabulate."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from baseline.datasets import ImageSplits, load_splits
from baseline.train import train
from benchmarks.latency import bench_bundle
from export.build import tool_versions
from export.bundle import load_bundle
from pipeline.folder_lock import LOCK_NAME, only_runner
from pipeline.stage import finished_record
from pipeline.sweep_plan import (
    Cell,
    Frame,
    Group,
    Point,
    baselines_of,
    finished_cell,
    groups_of,
    points_of,
)
from pipeline.sweep_table import Finished, sweep_record
from pipeline.sweep_tasks import Job, bundle_of, check_stage, export_stage
from pipeline.sweep_workers import SweepError, Workers, run_until_done
from records import codec, files
from records.bench import BenchRecord
from records.errors import EdgeveilError, OverwriteError, RecordError
from records.grid import Grid
from records.progress import Progress, silent
from records.sweep import GRID_NAME, RECORD_NAME, PointLatency, Sweep, SweepCell
from records.training import TrainingRecord
from report.write import write_report

#: What a sweep leaves; anything else in its folder is not ours to remove.
_CELL_FOLDERS = ("cells", "joint")
_FP32, _INT8 = "edge_fp32_onnx", "edge_int8_wire_onnx"


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep treats what is already in its folder.

    Attributes:
        replace: allow another grid than the one that the folder was made with; what the change
            does not touch is kept, cells that are no longer in the grid are removed.
    """

    replace: bool = False


def run_sweep(
    grid: Grid, folder: Path, options: SweepOptions, crew: Workers, *, progress: Progress = silent
) -> Sweep:
    """Do every cell of a grid that is not done, then write the table and its page.

    A cell is done when its record is there, decodes, and has the key that its inputs give; so a
    sweep that was killed goes on where it was and ends with the same records byte for byte.

    Args:
        grid: the sweep.
        folder: its folder; made when missing. On a cluster the workers must share it.
        options: what may be replaced.
        crew: who works.
        progress: called as points and cells end.

    Returns:
        The sweep's record; ``gates_passed`` is false when a control failed in any cell.

    Raises:
        OverwriteError: the folder was made with another grid, or is no sweep folder.
        InputError: another process is sweeping in the folder.
        SweepError: cells are missing after their second try.
        EdgeveilError: whatever the data, the network or the training refuses.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with only_runner(folder):
        _claim(grid, folder, options)
        splits = load_splits(grid.base.data)
        training = _train(grid, folder, splits, progress)
        frame = Frame(
            folder=str(folder),
            grid=grid,
            data=splits.record,
            checkpoint_sha256=training.checkpoint_sha256,
            versions=tool_versions(),
        )
        finished = _attack_all(frame, crew, progress)
        latency = _latencies(frame, splits, progress) if grid.latency else []
        record = sweep_record(frame, training, finished, latency)
        codec.write(folder / RECORD_NAME, record, replace=True)
        write_report(folder, folder / "report", replace=True)
    return record


def _claim(grid: Grid, folder: Path, options: SweepOptions) -> None:
    """Tie the folder to its grid, so that no other sweep silently replaces its results."""
    path = folder / GRID_NAME
    for place in (folder, *[p for p in folder.rglob("*") if p.is_dir()]):
        files.remove_partials(place)
    if not path.exists():
        if any(p for p in folder.iterdir() if p.name != LOCK_NAME):
            raise OverwriteError(f"{folder} is not empty and holds no sweep; choose another --out")
    elif path.read_bytes() != codec.encode(grid):
        if not options.replace:
            raise OverwriteError(
                f"{folder} was made with another grid; choose another --out, or pass --replace to "
                "do again what changed"
            )
        _remove_strangers(grid, folder)
    codec.write(path, grid, replace=True)


def _remove_strangers(grid: Grid, folder: Path) -> None:
    """Remove the cells and points of the former grid that this one does not have."""
    groups = groups_of(grid)
    cells = {folder / cell.file for group in groups for cell in _all_cells(group)}
    for name in _CELL_FOLDERS:
        for path in (folder / name).glob("*.json"):
            if path not in cells:
                path.unlink()
    points = {point.name for point in points_of(grid)}
    if (folder / "points").is_dir():
        for path in (folder / "points").iterdir():
            if path.is_dir() and path.name not in points:
                shutil.rmtree(path)
    (folder / RECORD_NAME).unlink(missing_ok=True)


def _all_cells(group: Group) -> tuple[Cell, ...]:
    return group.cells if group.joint is None else (*group.cells, group.joint)


def _train(grid: Grid, folder: Path, splits: ImageSplits, progress: Progress) -> TrainingRecord:
    return train(grid.base, splits, folder / "train", resume=True, replace=True, progress=progress)


def _attack_all(frame: Frame, crew: Workers, progress: Progress) -> list[Finished]:
    """Points, then the FP32 side of what is missing, then cells, then the joint verdicts."""
    points, groups = points_of(frame.grid), groups_of(frame.grid)
    run_until_done(
        crew, "point", frame, points, lambda job: _point_done(frame, job), progress, "points"
    )
    ids = {point: bundle_of(frame, point).manifest.bundle_id for point in points}

    def cell_done(job: Job) -> bool:
        return isinstance(job, Cell) and finished_cell(frame, job, ids[job.point]) is not None

    cells = tuple(cell for group in groups for cell in group.cells)
    missing = tuple(cell for cell in cells if not cell_done(cell))
    _share(frame, crew, missing, progress)
    run_until_done(crew, "cell", frame, cells, cell_done, progress, "cells")
    joint = tuple(group.joint for group in groups if group.joint is not None)
    if joint:
        run_until_done(crew, "cell", frame, joint, cell_done, progress, "joint verdicts")

    def record(cell: Cell) -> SweepCell:
        found = finished_cell(frame, cell, ids[cell.point])
        if found is None:
            raise SweepError(f"{cell.file} disappeared while the sweep ended; run it again")
        return found

    return [
        Finished(
            plan=group,
            cells=tuple(record(cell) for cell in group.cells),
            joint=record(group.joint or group.cells[0]),
        )
        for group in groups
    ]


def _share(frame: Frame, crew: Workers, missing: tuple[Cell, ...], progress: Progress) -> None:
    """Fill the cache; a baseline that fails will say so again in its cells, where it counts."""
    baselines = baselines_of(missing)
    if not baselines:
        return
    for done, _ in enumerate(crew.run("baseline", frame, baselines), start=1):
        progress("FP32 decoders", done, len(baselines))


def _point_done(frame: Frame, job: Job) -> bool:
    """Say whether a point's bundle and check are whole and of these inputs."""
    if not isinstance(job, Point):
        return False
    if finished_record(export_stage(frame, None, job), frame.root) is None:
        return False
    try:
        bundle_id = bundle_of(frame, job).manifest.bundle_id
    except EdgeveilError:
        # Damaged in a way that its stage's hashes do not show: it is exported again.
        return False
    return finished_record(check_stage(frame, None, job, bundle_id), frame.root) is not None


def _latencies(frame: Frame, splits: ImageSplits, progress: Progress) -> list[PointLatency]:
    """Measure the points one after the other, now that nothing else runs."""
    points = points_of(frame.grid)
    found = []
    for step, point in enumerate(points):
        progress("latency", step, len(points))
        found.append(_point_latency(point, _bench(frame, splits, point)))
    progress("latency", len(points), len(points))
    return found


def _bench(frame: Frame, splits: ImageSplits, point: Point) -> BenchRecord:
    """Return the point's bench, measured unless it is there for this very bundle."""
    bundle = load_bundle(frame.point_folder(point) / "bundle")
    recipe = msgspec.structs.replace(frame.grid.base.bench, threads=(1,))
    path = frame.root / "timing" / "latency" / f"{point.name}.json"
    if path.exists():
        try:
            stored = codec.read(path, BenchRecord)
        except RecordError:
            stored = None
        if stored is not None and stored.bundle_id == bundle.manifest.bundle_id:
            return stored
    record = bench_bundle(
        bundle,
        recipe,
        images=splits.victim.images,
        runtimes=("ort",),
        samples=path.with_name(f"{point.name}-samples.json"),
    )
    codec.write(path, record, replace=True)
    return record


def _point_latency(point: Point, bench: BenchRecord) -> PointLatency:
    p50 = {x.artifact: x.timing.p50_ms for x in bench.latency}
    ups = [x.timing for x in bench.speedups if x.int8 == _INT8 and x.same_runtime]
    return PointLatency(
        split=point.split,
        boundary_bits=point.bits,
        valid=bench.valid,
        machine=bench.machine.cpu_model,
        fp32_p50_ms=p50.get(_FP32) if bench.valid else None,
        int8_p50_ms=p50.get(_INT8) if bench.valid else None,
        ratio=ups[0].ratio if ups else None,
        low=ups[0].low if ups else None,
        high=ups[0].high if ups else None,
        verdict=ups[0].verdict if ups else None,
        notes=bench.notes,
    )
