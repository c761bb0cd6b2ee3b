"""One tensor stored in an ONNX file: complete, plain and finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from export.bundle_errors import (
    ExternalDataError,
    MalformedArtifactError,
    NonFiniteWeightsError,
)
from export.protobuf import Message

MAX_DIMENSIONS = 8
MAX_VALUES = 1 << 28

#: TensorProto.DataType → numpy dtype, for the types that an edge or a server half may store.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
}

# Where each type's values are when they are not in raw_data (onnx.proto, TensorProto).
_TYPED_FIELD = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data"}
_TYPED_FIELD |= {13: "uint64_data"}
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def tensor_values(tensor: Message, where: str) -> npt.NDArray[Any]:
    """Return the values of a parsed TensorProto.

    Args:
        tensor: parsed with ``onnx_schema.TENSOR``.
        where: file and tensor, for the error.

    Returns:
        An array of the stored shape and dtype; a view of the file's bytes where they are raw.

    Raises:
        ExternalDataError: the values are in another file.
        MalformedArtifactError: a type or shape that is not allowed, or the values do not fill it.
        NonFiniteWeightsError: a value is NaN or infinite.
    """
    if tensor.get("data_location", 0) != 0 or tensor.get("external_data"):
        raise ExternalDataError(
            f"{where} keeps its values outside the file; export again with the weights inside"
        )
    shape = _shape(tensor, where)
    values = _stored(tensor, where, math.prod(shape))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise NonFiniteWeightsError(f"{where} holds NaN or infinite values; export again")
    return values.reshape(shape)


def _shape(tensor: Message, where: str) -> tuple[int, ...]:
    dims: list[int] = tensor.get("dims", [])
    if len(dims) > MAX_DIMENSIONS or any(d < 0 or d > MAX_VALUES for d in dims):
        raise _malformed(where, f"has the dimensions {dims[: MAX_DIMENSIONS + 1]}")
    if math.prod(dims) > MAX_VALUES:
        raise _malformed(where, f"claims {math.prod(dims)} values")
    return tuple(dims)


def _stored(tensor: Message, where: str, count: int) -> npt.NDArray[Any]:
    number = tensor.get("data_type", 0)
    dtype = DTYPES.get(number)
    if dtype is None:
        raise _malformed(where, f"has data type {number}, which is not allowed")
    field = _TYPED_FIELD.get(number, "int32_data")
    used = [name for name in ("raw_data", *_TYPED_FIELDS) if tensor.get(name)]
    if len(used) > 1 or (used and used[0] not in ("raw_data", field)):
        raise _malformed(where, f"stores its values in {' and '.join(used)}")
    stored = (
        _typed(tensor[field], dtype, where)
        if used == [field]
        else _raw(tensor.get("raw_data", b""), dtype, where)
    )
    if stored.size != count:
        raise _malformed(where, f"holds {stored.size} values and its shape asks for {count}")
    return stored


def _raw(raw: memoryview | bytes, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    if len(raw) % dtype.itemsize:
        raise _malformed(where, f"holds {len(raw)} bytes of {dtype.itemsize}-byte values")
    return np.frombuffer(raw, dtype=dtype)


def _typed(stored: list[Any], dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    if isinstance(stored[0], memoryview):
        return np.frombuffer(b"".join(stored), dtype=dtype)
    if dtype == np.float16:
        # float16 values are stored as their bit patterns (onnx.proto, int32_data).
        return _integers(stored, np.dtype("<u2"), where).view(dtype)
    return _integers(stored, dtype, where)


def _integers(stored: list[int], dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    if dtype == np.uint64:
        stored = [value % (1 << 64) for value in stored]
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if any(value < low or value > high for value in stored):
        raise _malformed(where, f"holds a value that is no {dtype.name}")
    return np.array(stored, dtype=dtype)


def _malformed(where: str, what: str) -> MalformedArtifactError:
    return MalformedArtifactError(f"{where} {what}; export again")
