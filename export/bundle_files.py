"""The files of a bundle's folder: which there are, and their bytes, read without trusting names."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from export.bundle_errors import BundleFilesError, HashMismatchError
from records.hashing import sha256_bytes
from records.manifest import Artifact

#: A file is read whole into memory before it is verified; split networks are far smaller.
MAX_FILE_BYTES = 1 << 30


# Neither follow a link nor wait for the writer of a pipe (both flags are POSIX only).
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


def refuse_other_entries(folder: Path, expected: Iterable[str]) -> None:
    """Refuse a folder that holds anything but the expected names.

    Raises:
        BundleFilesError: a file is missing, or one is there that the manifest does not list.
    """
    wanted = set(expected)
    found: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name not in wanted:
                raise BundleFilesError(
                    f"{folder} holds {entry.name!r}, which its manifest does not list; "
                    "remove it or export again"
                )
            found.add(entry.name)
    for name in sorted(wanted - found):
        raise BundleFilesError(
            f"{folder} lacks {name!r}, which a bundle must hold; copy it again or export again"
        )


def read_plain_file(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file that has one name only.

    A symbolic link, a pipe, a device, and a file with a second hard link (through which it could
    change after it was verified) are refused. The size is looked at before anything is read.

    Args:
        path: the file.
        limit: most bytes that are accepted.

    Raises:
        BundleFilesError: the file is missing, not plain, or larger than ``limit``.
    """
    try:
        before = path.lstat()
        _refuse_special(path, before)
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise BundleFilesError(
            f"{path} cannot be read: {error.strerror}; copy the bundle again"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        opened = os.fstat(descriptor)
        _refuse_special(path, opened)
        if opened.st_size > limit:
            raise BundleFilesError(
                f"{path} has {opened.st_size} bytes, more than the {limit} accepted here; "
                "it is no file of a bundle"
            )
        data = file.read(opened.st_size + 1)
    if len(data) != opened.st_size:
        raise BundleFilesError(f"{path} changed while it was read; copy the bundle first")
    return data


def read_listed_file(path: Path, artifact: Artifact) -> bytes:
    """Return the bytes of one artifact's file, which are exactly those that the manifest lists.

    Raises:
        BundleFilesError: missing, not a plain file, too large, or of another size.
        HashMismatchError: the bytes have another SHA-256.
    """
    size = _size_of(path)
    if size != artifact.size:
        raise BundleFilesError(
            f"{path} has {size} bytes and its manifest says {artifact.size}; copy it again"
        )
    data = read_plain_file(path, min(artifact.size, MAX_FILE_BYTES))
    found = sha256_bytes(data)
    if found != artifact.sha256:
        raise HashMismatchError(
            f"{path} has SHA-256 {found[:16]}… and its manifest says {artifact.sha256[:16]}…; "
            "it was changed or damaged, copy it again"
        )
    return data


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError as error:
        raise BundleFilesError(
            f"{path} cannot be read: {error.strerror}; copy the bundle again"
        ) from error


def _refuse_special(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BundleFilesError(
            f"{path} is not a regular file but a {_kind(status.st_mode)}; "
            "a bundle holds plain files only"
        )
    if status.st_nlink != 1:
        raise BundleFilesError(
            f"{path} has {status.st_nlink} hard links, so it can change under another name; "
            "copy the bundle's files"
        )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "pipe"),
    )
    return next((name for test, name in kinds if test(mode)), "device or socket")
