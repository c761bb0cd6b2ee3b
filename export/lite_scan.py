"""Static scan of a TorchScript Lite file: its archive, its pickles, its bytecode, its weights.

Source code and debug tables, which torch saves and the Lite interpreter does not need, are left out
by ``export.torchscript`` and refused here. Nothing is unpickled: every pickle is walked opcode by
opcode (`export.pickle_walk`), and only names that torch itself writes for an edge may appear.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from export.bundle_errors import (
    ArtifactMismatchError,
    MalformedArtifactError,
    NonFiniteWeightsError,
    UnsafeOperatorError,
    UnsafePickleError,
)
from export.lite_bytecode import BytecodeError, ForbiddenOperatorError, check_bytecode
from export.pickle_walk import (
    AllowList,
    Call,
    ForbiddenNameError,
    Instance,
    Name,
    NonFiniteNumberError,
    Persistent,
    PickleError,
    Walked,
    walk,
)
from export.zip_members import ArchiveError, read_members
from records.manifest import Artifact

#: Storage class → numpy dtype of its values. bfloat16 has no numpy dtype; see `_is_finite`.
_STORAGES: dict[str, str] = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "<u2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "u1",
    "torch QInt8Storage": "i1",
    "torch QUInt8Storage": "u1",
    "torch QInt32Storage": "<i4",
}
_TENSOR, _QTENSOR = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_qtensor"
_TYPE_TAG = "torch.jit._pickle restore_type_tag"
_CALLS = frozenset(
    {
        _TENSOR,
        _QTENSOR,
        _TYPE_TAG,
        "collections OrderedDict",
        "torch.jit._pickle build_boollist",
        "torch.jit._pickle build_doublelist",
        "torch.jit._pickle build_intlist",
        "torch.jit._pickle build_tensorlist",
    }
)
_SCHEMES = frozenset({"torch per_tensor_affine", "torch per_channel_affine"})
_TYPE = re.compile(r"[A-Za-z, \[\]]{1,200}")
_PACKED = re.compile(r"__torch__\.torch\.classes\.quantized [A-Za-z0-9]{1,40}PackedParamsBase")
#: The module's own class, but nothing of torch's registered C++ classes.
_MODULE = re.compile(r"__torch__(?!\.torch\.classes)(\.[A-Za-z_]\w*)+ [A-Za-z_]\w*", re.ASCII)

_DATA = AllowList(
    name=lambda text: (
        text in _CALLS
        or text in _STORAGES
        or text in _SCHEMES
        or _PACKED.fullmatch(text) is not None
    ),
    call=_CALLS.__contains__,
    make=lambda text: _PACKED.fullmatch(text) is not None,
)
_OBJECT = AllowList(
    name=lambda text: _MODULE.fullmatch(text) is not None,
    call=lambda _: False,
    make=lambda text: _MODULE.fullmatch(text) is not None,
)

_PICKLES: dict[str, AllowList] = {"data.pkl": _OBJECT, "bytecode.pkl": _DATA}
_INT8 = frozenset({"aten::quantize_per_tensor", "aten::dequantize", "aten::int_repr"})
#: The constants of the source that is left out; the interpreter never opens it.
_UNREAD: dict[str, AllowList] = {"constants.pkl": _DATA}
_STORAGE = re.compile(r"(?:data|constants|bytecode)/\d{1,6}\.storage")
_PLAIN = frozenset({"version", "byteorder", ".data/serialization_id"})


def scan_lite(data: bytes, artifact: Artifact, where: str) -> None:
    """Verify a TorchScript Lite file without loading it.

    Args:
        data: the file's bytes.
        artifact: what the manifest says of it; its bytecode version is compared.
        where: the file's path, for errors.

    Raises:
        MalformedArtifactError: no strict zip archive, a member that the format has not, or
            tables and tensors out of bounds.
        UnsafePickleError: a pickle names or calls what torch never writes for an edge.
        UnsafeOperatorError: the bytecode uses an operator that is not on the allow-list.
        NonFiniteWeightsError: a stored number is NaN or infinite.
        ArtifactMismatchError: it is of another bytecode version, precision or boundary than the
            manifest says.
    """
    try:
        members = _without_top_folder(read_members(data))
        _check_members(members)
        walked = {name: _walk(name, members[name]) for name in _known_pickles() if name in members}
        _check_version(walked["bytecode.pkl"], artifact, where)
        module = _module_of(walked["data.pkl"])
        table = walked["bytecode.pkl"].value
        operators = check_bytecode(table, artifact.bytecode_version, module)
        _check_kind(operators, artifact, where)
        for name, found in walked.items():
            _check_data(name, found, members)
    except (ArchiveError, PickleError, BytecodeError, ForbiddenOperatorError) as error:
        raise _refusal(error, where) from error


def read_bytecode(data: bytes) -> tuple[int, tuple[str, ...], tuple[tuple[str, int, int], ...]]:
    """Return version, operators with overload, and instructions of a file that was verified.

    Args:
        data: the bytes of a file that ``scan_lite`` let pass.
    """
    members = _without_top_folder(read_members(data))
    version, method = _walk("bytecode.pkl", members["bytecode.pkl"]).value
    body = dict(method[1])
    names = tuple(
        f"{name}.{overload}" if overload else name for name, overload, _ in body["operators"]
    )
    return version, names, body["instructions"]


def _refusal(error: Exception, where: str) -> Exception:
    text = f"{where} is refused as TorchScript Lite: {error}; export again"
    if isinstance(error, ForbiddenNameError):
        return UnsafePickleError(text)
    if isinstance(error, ForbiddenOperatorError):
        return UnsafeOperatorError(text)
    if isinstance(error, NonFiniteNumberError):
        return NonFiniteWeightsError(text)
    return MalformedArtifactError(text)


def _without_top_folder(members: dict[str, memoryview]) -> dict[str, memoryview]:
    """Strip the one folder that torch writes everything into; its name means nothing."""
    top = next(iter(members), "").partition("/")[0]
    if not re.fullmatch(r"[\w.-]{1,200}", top, re.ASCII) or set(top) == {"."}:
        raise ArchiveError(f"its top folder is called {top[:100]!r}")
    stripped = {}
    for name, content in members.items():
        if not name.startswith(f"{top}/"):
            raise ArchiveError(f"member {name!r} is outside its top folder")
        stripped[name[len(top) + 1 :]] = content
    return stripped


def _check_members(members: dict[str, memoryview]) -> None:
    for name in members:
        if not (name in _known_pickles() or name in _PLAIN or _STORAGE.fullmatch(name)):
            raise ArchiveError(f"member {name!r} is none of TorchScript Lite")
    for name in (*_PICKLES, "version"):
        if name not in members:
            raise ArchiveError(f"member {name!r} is missing")
    if bytes(members.get("byteorder", b"little")) != b"little":
        raise ArchiveError("its numbers are not little-endian")


def _known_pickles() -> dict[str, AllowList]:
    return {**_PICKLES, **_UNREAD}


def _walk(name: str, content: memoryview) -> Walked:
    try:
        return walk(bytes(content), _known_pickles()[name])
    except PickleError as error:
        raise type(error)(f"in {name}, {error}") from error


def _check_version(bytecode: Walked, artifact: Artifact, where: str) -> None:
    table = bytecode.value
    found = table[0] if isinstance(table, tuple) and table else None
    if type(found) is int and found != artifact.bytecode_version:
        raise ArtifactMismatchError(
            f"{where} has bytecode version {found} and its manifest says "
            f"{artifact.bytecode_version}; export again"
        )


def _module_of(data: Walked) -> str:
    """Return the qualified class of the one object, which freezing leaves without attributes."""
    module = data.value
    if not isinstance(module, Instance) or module.state != {}:
        raise PickleError("in data.pkl, it holds more than one frozen module")
    return module.kind.text.replace(" ", ".")


def _check_kind(operators: frozenset[str], artifact: Artifact, where: str) -> None:
    """FP32 never quantizes; INT8 does, and ends with stored integers or with a dequantize."""
    quantized = any(name.startswith("quantized::") or name in _INT8 for name in operators)
    boundary = "wire" if "aten::int_repr" in operators else "float"
    if quantized != (artifact.precision == "int8") or boundary != artifact.boundary:
        raise ArtifactMismatchError(
            f"{where} is {'int8' if quantized else 'fp32'} with a {boundary} boundary and its "
            f"manifest says {artifact.precision} with a {artifact.boundary} boundary; export again"
        )


def _check_data(pickle: str, found: Walked, members: dict[str, memoryview]) -> None:
    folder = pickle.removesuffix(".pkl")
    for persistent in found.persistent:
        _check_storage(persistent, folder, members)
    for call in found.calls:
        _check_call(call)


def _storage_of(persistent: Persistent) -> tuple[str, str, int]:
    """Return storage class, key and number of values of a persistent id."""
    key = persistent.key
    if (
        not isinstance(key, tuple)
        or [type(part) for part in key] != [str, Name, str, str, int]
        or key[0] != "storage"
        or key[3] != "cpu"
        or key[1].text not in _STORAGES
        or key[4] < 0
    ):
        raise PickleError("it refers to data that is no plain CPU storage")
    return key[1].text, key[2], key[4]


def _check_storage(persistent: Persistent, folder: str, members: dict[str, memoryview]) -> None:
    kind, key, count = _storage_of(persistent)
    found = [members[f"{d}/{key}"] for d in {folder, "constants"} if f"{d}/{key}" in members]
    dtype = np.dtype(_STORAGES[kind])
    if not found:
        raise ArchiveError(f"storage {key!r:.100} is missing")
    for content in found:
        if len(content) != count * dtype.itemsize:
            raise ArchiveError(
                f"storage {key!r:.100} has {len(content)} bytes, not {count} of {dtype.name}"
            )
        if not _is_finite(content, kind):
            raise NonFiniteNumberError(f"storage {key!r:.100} holds NaN or infinite values")


def _is_finite(content: memoryview, kind: str) -> bool:
    values = np.frombuffer(content, dtype=_STORAGES[kind])
    if kind == "torch BFloat16Storage":
        # The upper half of a float32: all bits of the exponent set means NaN or infinite.
        return not bool(np.any((values & 0x7F80) == 0x7F80))
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _check_call(call: Call) -> None:
    name, arguments = call.function.text, call.arguments
    if name in (_TENSOR, _QTENSOR):
        _check_view(arguments, 6 if name == _TENSOR else 7)
        if name == _QTENSOR:
            _check_qparams(arguments[4])
    elif name == "collections OrderedDict" and arguments:
        raise ForbiddenNameError("it fills an OrderedDict, which is empty for every tensor")
    elif name == _TYPE_TAG and not (
        len(arguments) == 2 and isinstance(arguments[1], str) and _TYPE.fullmatch(arguments[1])
    ):
        raise PickleError("it gives a list a type that is not a plain one")


def _check_view(arguments: tuple[Any, ...], length: int) -> None:
    """The tensor must lie inside its storage, whatever its strides."""
    if len(arguments) != length or not isinstance(arguments[0], Persistent):
        raise PickleError("it makes a tensor from no storage")
    count = _storage_of(arguments[0])[2]
    offset, shape, strides = arguments[1:4]
    if not (_are_counts((offset,)) and _are_counts(shape) and _are_counts(strides)):
        raise PickleError("it makes a tensor whose shape is no shape")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=False))
    if len(shape) != len(strides) or len(shape) > 8 or (0 not in shape and last >= count):
        raise PickleError("it makes a tensor that reaches beyond its storage")


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(
        type(value) is int and 0 <= value < 1 << 32 for value in values
    )


def _check_qparams(qparams: Any) -> None:
    """(scheme, scale, zero point) per tensor; (scheme, scales, zero points, axis) per channel."""
    scheme = qparams[0] if isinstance(qparams, tuple) and qparams else None
    kinds = [type(part) for part in qparams[1:]] if isinstance(scheme, Name) else []
    text = scheme.text if isinstance(scheme, Name) else ""
    per_tensor = text == "torch per_tensor_affine" and kinds == [float, int]
    per_channel = text == "torch per_channel_affine" and kinds == [Call, Call, int]
    if not (per_tensor or per_channel):
        raise PickleError("it makes a quantized tensor without scale and zero point")
    if per_tensor and not qparams[1] > 0.0:
        raise PickleError(f"it has the scale {qparams[1]}")
