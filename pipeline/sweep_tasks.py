"""What a sweep's workers do, each by itself: export and check a point, share, attack a cell.

Arguments and results are text: joblib's Dask backend scatters larger objects to one worker, and
what was scattered is lost with it, while text travels inside the task and survives.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeAlias

import msgspec

from attack.evaluate import attack_bundle, share_baseline
from attack.training import torch_threads
from baseline.datasets import ImageSplits, load_splits
from baseline.model import build_model
from export.build import export_bundle, tool_versions
from export.bundle import Bundle, load_bundle
from pipeline.folder_lock import waiting_lock
from pipeline.stage import Stage, do_stage, finished_record
from pipeline.sweep_plan import Baseline, Cell, Frame, Point, finished_cell
from pipeline.sweep_records import cell_record
from records import codec, files
from records.errors import DataError, EdgeveilError, InputError, UnsupportedHereError
from records.parity import CheckRecord
from records.recipe import DataRecipe
from records.sweep import GRID_NAME, CellTiming
from runtime_check.check import check_bundle

#: Torch's seed and thread count are the process's: a worker with several threads takes turns.
_ONE_AT_A_TIME = threading.Lock()
THREADS = 1

Job: TypeAlias = Point | Baseline | Cell
Work: TypeAlias = Callable[[Frame, ImageSplits, Job], None]


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What a task says when it ends; whether its work is done is read from the files alone."""

    name: str
    failure: str | None = None


def run_task(kind: str, frame: str, job: str) -> str:
    """Do one task in this process, with one thread.

    Args:
        kind: ``point``, ``baseline`` or ``cell``.
        frame: the `Frame` as JSON.
        job: the `Point`, `Baseline` or `Cell` as JSON.

    Returns:
        An `Ended` as JSON; a named error is told in it and raises nothing, so that one cell that
        cannot be attacked does not stop the others.
    """
    job_type, work = _WORK[kind]
    decoded = msgspec.json.decode(job, type=job_type)
    with _ONE_AT_A_TIME:
        try:
            whole = _frame(frame)
            with torch_threads(THREADS):
                work(whole, _splits(whole), decoded)
        except EdgeveilError as error:
            ended = Ended(name=decoded.name, failure=f"{type(error).__name__}: {error}")
        else:
            ended = Ended(name=decoded.name)
    return msgspec.json.encode(ended).decode()


def _frame(text: str) -> Frame:
    """Decode the frame and refuse a worker that would compute something else."""
    frame = msgspec.json.decode(text, type=Frame)
    here = socket.gethostname()
    claimed = frame.root / GRID_NAME
    if not claimed.is_file() or claimed.read_bytes() != codec.encode(frame.grid):
        raise InputError(
            f"worker {here} does not see this sweep's folder at {frame.folder}; a cluster's "
            "workers must share it under the same path"
        )
    own = tool_versions()
    if own != frame.versions:
        other = sorted(
            n for n in own.keys() | frame.versions if own.get(n) != frame.versions.get(n)
        )
        raise UnsupportedHereError(
            f"worker {here} has other versions of {', '.join(other)} than the sweep; install the "
            "same ones"
        )
    return frame


def _splits(frame: Frame) -> ImageSplits:
    splits = _loaded(msgspec.json.encode(frame.grid.base.data))
    if splits.record != frame.data:
        raise DataError(
            f"worker {socket.gethostname()} reads other images from {frame.data.source} than the "
            "sweep was started with"
        )
    return splits


@lru_cache(maxsize=1)
def _loaded(recipe: bytes) -> ImageSplits:
    """Load the images once a process; whatever must be downloaded, the coordinator has."""
    data = msgspec.json.decode(recipe, type=DataRecipe)
    return load_splits(msgspec.structs.replace(data, download=False))


def bundle_of(frame: Frame, point: Point) -> Bundle:
    """Return a point's verified bundle.

    Raises:
        BundleError: it is not there or not whole.
    """
    return load_bundle(frame.point_folder(point) / "bundle")


def export_stage(frame: Frame, splits: ImageSplits | None, point: Point) -> Stage:
    """Return the stage that exports a point; ``splits`` are needed to do it, not to ask.

    Raises:
        InputError: by the stage's work, without ``splits``.
    """
    recipe, place = frame.recipe(point), frame.point_folder(point)

    def work() -> bool:
        if splits is None:
            raise InputError(f"{point.name} cannot be exported without images")
        trained = msgspec.structs.replace(recipe.model, weights=str(frame.checkpoint))
        export_bundle(
            build_model(trained, len(splits.classes)),
            recipe,
            splits,
            point.split,
            place / "bundle",
            checkpoint_sha256=frame.checkpoint_sha256,
            replace=True,
        )
        return True

    inputs = {
        "checkpoint": frame.checkpoint_sha256,
        "data": frame.data,
        "recipe": recipe,
        "versions": frame.versions,
    }
    output = (place / "bundle").relative_to(frame.root).as_posix()
    return Stage(f"{point.name}/export", inputs, (output,), work)


def check_stage(frame: Frame, splits: ImageSplits | None, point: Point, bundle_id: str) -> Stage:
    """Return the stage that checks a point's bundle; ``splits`` as in `export_stage`.

    Raises:
        InputError: by the stage's work, without ``splits``.
    """
    place = frame.point_folder(point)

    def work() -> bool:
        if splits is None:
            raise InputError(f"{point.name} cannot be checked without images")
        evidence = place / "check-evidence.npz"
        evidence.unlink(missing_ok=True)
        record = check_bundle(
            bundle_of(frame, point),
            splits.victim,
            threads=THREADS,
            evidence=evidence,
            replace=True,
        )
        codec.write(place / "check.json", record, replace=True)
        return record.passed

    inputs = {"bundle": bundle_id, "data": frame.data, "versions": frame.versions}
    output = (place / "check.json").relative_to(frame.root).as_posix()
    return Stage(f"{point.name}/check", inputs, (output,), work)


def _do_point(frame: Frame, splits: ImageSplits, job: Job) -> None:
    """Export and check, each unless it is done already."""
    if not isinstance(job, Point):
        raise TypeError(job)
    # A cluster may run a task twice; two exports into one folder would trip over each other.
    with waiting_lock(frame.root / "points" / f".{job.name}.lock"):
        files.remove_partials(frame.root / "points" / job.name)
        export = export_stage(frame, splits, job)
        if finished_record(export, frame.root) is None:
            do_stage(export, frame.root)
        check = check_stage(frame, splits, job, bundle_of(frame, job).manifest.bundle_id)
        if finished_record(check, frame.root) is None:
            do_stage(check, frame.root)


def _do_baseline(frame: Frame, splits: ImageSplits, job: Job) -> None:
    """Train what the cells of a split and seed share, one attacker after the other."""
    if not isinstance(job, Baseline):
        raise TypeError(job)
    point = Point(split=job.split, bits=job.bits)
    bundle = bundle_of(frame, point)
    with waiting_lock(frame.root / "points" / f".{job.split}.s{job.seed}.lock"):
        for attacker in job.attackers:
            cell = Cell(point=point, attacker=attacker, seeds=(job.seed,))
            recipe = frame.attack_recipe(cell)
            share_baseline(bundle, splits, recipe, frame.cache, threads=THREADS)


def _do_cell(frame: Frame, splits: ImageSplits, job: Job) -> None:
    """Attack, and write the record last: a worker that dies leaves none."""
    if not isinstance(job, Cell):
        raise TypeError(job)
    bundle = bundle_of(frame, job.point)
    if finished_cell(frame, job, bundle.manifest.bundle_id) is not None:
        return
    started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    attack = attack_bundle(
        bundle, splits, frame.attack_recipe(job), frame.cache, None, threads=THREADS
    )
    check = codec.read(frame.point_folder(job.point) / "check.json", CheckRecord)
    record = cell_record(frame, job, bundle.manifest, check, attack)
    timing = CellTiming(
        cell=job.name,
        host=socket.gethostname(),
        process=os.getpid(),
        started_at=started_at,
        seconds=time.perf_counter() - start,
    )
    codec.write(frame.root / "timing" / job.file, timing, replace=True)
    codec.write(frame.root / job.file, record, replace=True)


_WORK: dict[str, tuple[type[Job], Work]] = {
    "point": (Point, _do_point),
    "baseline": (Baseline, _do_baseline),
    "cell": (Cell, _do_cell),
}
