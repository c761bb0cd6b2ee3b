"""SHA-256 of files, arrays and JSON records."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_array(*arrays: npt.NDArray[np.generic]) -> str:
    """Return one SHA-256 over the dtype, shape and C-order bytes of each array in turn.

    Args:
        arrays: arrays of any shape and any little-endian dtype.

    Returns:
        64 lower-case hexadecimal digits.
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        contiguous = array if array.flags.c_contiguous else array.copy(order="C")
        digest.update(contiguous.reshape(-1).view("uint8").data)
    return digest.hexdigest()


def sha256_record(record: Any) -> str:
    """Return the SHA-256 of a record's canonical JSON: sorted keys, no white space.

    Args:
        record: anything that msgspec can encode.

    Returns:
        64 lower-case hexadecimal digits.
    """
    return sha256_bytes(msgspec.json.encode(record, order="sorted"))
