"""Locks that the system drops when their process dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from records.errors import InputError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def only_runner(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock.

    Raises:
        InputError: another process holds it.
    """
    with (folder / LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another edgeveil run is working in {folder}; wait for it or choose another --out"
            ) from error
        yield


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever holds it: the same work must not be done twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
