"""One stage: skipped when its inputs' hashes are unchanged, otherwise done and recorded last."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from records import codec
from records.errors import RecordError
from records.hashing import sha256_file, sha256_record
from records.run import StageRecord

#: Raised whenever a stage computes something else from the same inputs.
STAGES_VERSION = 1


@dataclass(frozen=True)
class Stage:
    """A step of a run.

    Attributes:
        name: unique in the run, e.g. ``train`` or ``features.3/check``.
        inputs: everything that decides the result: recipe sections, hashes, versions.
        outputs: files below the run folder that the stage leaves; a folder stands for all
            the files in it.
        work: does the stage; returns whether its gates passed.
    """

    name: str
    inputs: Mapping[str, object]
    outputs: tuple[str, ...]
    work: Callable[[], bool]

    @property
    def key(self) -> str:
        """SHA-256 over the stage's name and inputs."""
        return sha256_record([STAGES_VERSION, self.name, self.inputs])


def finished_record(stage: Stage, run: Path) -> StageRecord | None:
    """Return the stage's record when it ended with these inputs and its outputs are intact.

    Args:
        stage: the stage.
        run: the run folder.

    Returns:
        The record, or None when the stage must be done.
    """
    path = _record_path(stage, run)
    if not path.exists():
        return None
    try:
        record = codec.read(path, StageRecord)
    except RecordError:
        # Written by another version: the stage is simply done again.
        return None
    if record.key != stage.key or record.outputs != _hash_outputs(stage, run):
        return None
    return record


def do_stage(stage: Stage, run: Path) -> StageRecord:
    """Do a stage and write its record, which is what makes it count as done.

    Args:
        stage: the stage.
        run: the run folder.

    Returns:
        The record just written.

    Raises:
        RecordError: the stage ended without leaving what it promised.
    """
    _record_path(stage, run).unlink(missing_ok=True)
    started_at, start = datetime.now(UTC).isoformat(), time.perf_counter()
    gates_passed = stage.work()
    missing = [output for output in stage.outputs if not (run / output).exists()]
    if missing:
        raise RecordError(f"stage {stage.name} ended without writing {', '.join(missing)}")
    record = StageRecord(
        stage=stage.name,
        key=stage.key,
        outputs=_hash_outputs(stage, run),
        gates_passed=gates_passed,
        started_at=started_at,
        seconds=time.perf_counter() - start,
    )
    codec.write(_record_path(stage, run), record)
    return record


def _record_path(stage: Stage, run: Path) -> Path:
    return run / "stages" / f"{stage.name.replace('/', '.')}.json"


def _hash_outputs(stage: Stage, run: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for output in stage.outputs:
        path = run / output
        if not path.exists():
            continue
        children = sorted(path.rglob("*")) if path.is_dir() else [path]
        for child in children:
            if child.is_file():
                found[child.relative_to(run).as_posix()] = sha256_file(child)
    return found
