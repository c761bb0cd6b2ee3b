"""Files that appear whole or not at all: write beside the target, then rename over it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from records.errors import OverwriteError

PARTIAL_SUFFIX = ".partial"


def _partial_name(path: Path) -> str:
    return f".{path.name}."


def write_bytes(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write ``data`` to ``path`` by atomic rename, flushed to disk first.

    Args:
        path: target; its folder is made when missing.
        data: the whole content.
        replace: allow an existing file to be replaced.

    Raises:
        OverwriteError: the file exists and ``replace`` is false.
    """

    def write(partial: Path) -> None:
        partial.write_bytes(data)

    write_file(path, write, replace=replace)


def write_file(path: Path, write: Callable[[Path], object], *, replace: bool = False) -> None:
    """Let ``write`` fill a temporary sibling of ``path``, then rename it to ``path``.

    Args:
        path: target; its folder is made when missing.
        write: called once with the temporary path; must leave a complete file there.
        replace: allow an existing file to be replaced.

    Raises:
        OverwriteError: the file exists and ``replace`` is false.
    """
    if path.exists() and not replace:
        raise OverwriteError(f"{path} already exists; remove it or choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        prefix=_partial_name(path), suffix=PARTIAL_SUFFIX, dir=path.parent
    )
    os.close(handle)
    partial = Path(name)
    try:
        write(partial)
        # mkstemp makes files that only the owner can read; a result is an ordinary file.
        partial.chmod(0o644)
        _flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(path.parent)


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder; rename it to ``path`` when the block ends well.

    Args:
        path: target folder.
        replace: allow an existing folder to be replaced (the old one is removed last).

    Yields:
        The temporary folder to fill.

    Raises:
        OverwriteError: the folder exists, is not empty, and ``replace`` is false.
    """
    if path.exists() and not replace and (not path.is_dir() or any(path.iterdir())):
        raise OverwriteError(f"{path} already exists; remove it or choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
        tempfile.mkdtemp(prefix=_partial_name(path), suffix=PARTIAL_SUFFIX, dir=path.parent)
    )
    try:
        yield partial
        partial.chmod(0o755)
        for child in sorted(partial.rglob("*")):
            _flush(child)
        _swap_in(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _flush(path.parent)


def remove_partials(folder: Path) -> list[Path]:
    """Remove what killed writers left in ``folder`` (not below it) and return its paths."""
    left = [p for p in folder.glob(f".*{PARTIAL_SUFFIX}") if p.exists()]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return left


def _swap_in(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=_partial_name(path), suffix=PARTIAL_SUFFIX, dir=path.parent))
    path.rename(old / "old")
    partial.rename(path)
    shutil.rmtree(old)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
