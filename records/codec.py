"""Records to JSON files and back, strictly: unknown keys and wrong types are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from records import files
from records.errors import RecordError

T = TypeVar("T")

#: A record is text written by a program; nothing that edgeveil writes comes near this.
MAX_RECORD_BYTES = 64 * 1024 * 1024

#: Keys whose values are wall-clock facts of one run: two runs with the same seed differ in them.
TIMING_KEYS = frozenset({"seconds", "timing", "started_at", "ended_at"})


def encode(record: Any) -> bytes:
    """Return a record as indented JSON with sorted keys and a final newline."""
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n"


def decode(data: bytes, kind: type[T], where: str) -> T:
    """Decode JSON bytes strictly into ``kind``.

    Args:
        data: JSON text in UTF-8.
        kind: the record type.
        where: what the error shall name as the source.

    Raises:
        RecordError: not JSON, a missing or unknown key, or a value of the wrong type.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{where} is not a valid {kind.__name__}: {error}") from error


def read(path: Path, kind: type[T]) -> T:
    """Read a record from a JSON file.

    Raises:
        RecordError: the file is missing, larger than 64 MiB, or not a valid ``kind``.
    """
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise RecordError(f"{path} is larger than {MAX_RECORD_BYTES} bytes: not a record")
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    return decode(data, kind, str(path))


def write(path: Path, record: Any, *, replace: bool = False) -> None:
    """Write a record as JSON by atomic rename.

    Raises:
        OverwriteError: the file exists and ``replace`` is false.
    """
    files.write_bytes(path, encode(record), replace=replace)


def without_timings(value: Any) -> Any:
    """Return builtin JSON data with every key of ``TIMING_KEYS`` removed at any depth.

    Two runs of one recipe must be equal after this; see ``edgeveil run``.

    Args:
        value: a record, or builtin JSON data.
    """
    plain = msgspec.to_builtins(value, str_keys=True)
    if isinstance(plain, dict):
        return {k: without_timings(v) for k, v in plain.items() if k not in TIMING_KEYS}
    if isinstance(plain, list | tuple):
        return [without_timings(v) for v in plain]
    return plain
