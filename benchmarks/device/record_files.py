"""The records of a device's steps: whole or not there, and one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def alone(folder: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold a folder of records alone, so that a run whose caller is gone disturbs no other.

    Args:
        folder: made when missing.
        waiting: called once when another run must end first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def step(path: Path, contents_sha256: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a step's record: the one that is there, else a new one, written by atomic rename.

    Args:
        path: of the record.
        contents_sha256: of the kit; the record of another kit is replaced.
        work: does the step.
    """
    found = _read(path)
    if found is not None and found.get("kit") == contents_sha256:
        return found
    record = work() | {"kit": contents_sha256}
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(record, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    # As it will be read the next time: tuples have become lists.
    found = json.loads(path.read_text(encoding="utf-8"))
    return dict(found)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
