"""Static scan of a safetensors file: header in bounds, no gaps or overlaps, finite values.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from export.bundle_errors import MalformedArtifactError, NonFiniteWeightsError
from export.strict_json import JsonError, parse_json

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "u1",
}


def scan_safetensors(data: bytes, where: str) -> None:
    """Verify a safetensors file.

    Args:
        data: the file's bytes.
        where: the file's path, for errors.

    Raises:
        MalformedArtifactError: header, dtype, shape or offsets are wrong, or the tensors
            do not fill the file exactly.
        NonFiniteWeightsError: a value is NaN or infinite.
    """
    header, first = _header(data, where)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(v, str) for v in metadata.values()):
        raise _malformed(where, "has metadata that is not text")
    spans = sorted(
        (*_span(name, entry, where), name, entry["dtype"]) for name, entry in header.items()
    )
    position = 0
    body = memoryview(data)[first:]
    for begin, end, name, dtype in spans:
        if begin != position or end > len(body):
            raise _malformed(where, f"has tensor {name!r:.100} at {begin}, not at {position}")
        position = end
        if not _is_finite(body[begin:end], dtype):
            raise NonFiniteWeightsError(
                f"{where}: tensor {name!r:.100} holds NaN or infinite values; export again"
            )
    if position != len(body):
        raise _malformed(where, f"has {len(body) - position} bytes after its tensors")


def _header(data: bytes, where: str) -> tuple[dict[str, Any], int]:
    if len(data) < 8:
        raise _malformed(where, "is cut off")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _malformed(where, f"claims a header of {length} bytes")
    text = data[8 : 8 + length]
    if not text.startswith(b"{"):
        raise _malformed(where, "has a header that is not a JSON object")
    try:
        header = parse_json(text)
    except JsonError as error:
        raise _malformed(where, f"has a malformed header ({error})") from error
    return dict(header), 8 + length


def _span(name: str, entry: Any, where: str) -> tuple[int, int]:
    """Return begin and end of a tensor, which its dtype and shape fill exactly."""
    label = f"has a malformed tensor {name!r:.100}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(where, label)
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not (_are_counts(shape) and _are_counts(offsets) and isinstance(dtype, str)):
        raise _malformed(where, label)
    if len(offsets) != 2 or len(shape) > MAX_DIMENSIONS or dtype not in _DTYPES:
        raise _malformed(where, label)
    begin, end = offsets
    if end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise _malformed(where, f"has {end - begin} bytes for tensor {name!r:.100} of {shape}")
    return begin, end


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 40 for value in values
    )


def _is_finite(raw: memoryview, dtype: str) -> bool:
    values = np.frombuffer(raw, dtype=_DTYPES[dtype])
    if dtype == "BF16":
        # The upper half of a float32: all bits of the exponent set means NaN or infinite.
        return not bool(np.any((values & 0x7F80) == 0x7F80))
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _malformed(where: str, what: str) -> MalformedArtifactError:
    return MalformedArtifactError(f"{where} {what}; export again")
