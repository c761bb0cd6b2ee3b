"""A saved TorchScript Lite archive without what the Lite interpreter does not read.

torch also saves the Python source, its debug tables and the source's constants, which only
``torch.jit.load`` reads; every tensor in a member of its own, aligned and with headers; the scales
of a weight's channels as float64 though they are float32 numbers, and a zero point of eight bytes
for every channel though all are 0. Here the tensors of one type share one member, equal ones are
stored once, scales are float32 where that loses nothing, and equal zero points are one number with
a stride of 0. The interpreter's unpickler takes all of it, and every value stays the same.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from export.pickle_walk import AllowList, Call, Instance, Name, Persistent, walk
from export.pickle_write import write_pickle
from records.errors import ExportError

#: The counter that torch.jit puts into the name of a class that it compiled before.
_MANGLE = re.compile(rb"___torch_mangle_\d+\.?")
_FOLDER = "archive"
_TENSOR, _QTENSOR = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_qtensor"
_FLOAT, _DOUBLE, _LONG = (f"torch {kind}Storage" for kind in ("Float", "Double", "Long"))
#: Bytes a value.
_WIDTHS = {
    **dict.fromkeys(("torch CharStorage", "torch ByteStorage", "torch BoolStorage"), 1),
    **dict.fromkeys(("torch QInt8Storage", "torch QUInt8Storage"), 1),
    **dict.fromkeys(("torch HalfStorage", "torch BFloat16Storage", "torch ShortStorage"), 2),
    **dict.fromkeys((_FLOAT, "torch IntStorage", "torch QInt32Storage"), 4),
    **dict.fromkeys((_DOUBLE, _LONG), 8),
}
#: Kernels read a float weight where it lies; smaller tensors are not worth the padding.
_ALIGNED_FROM, _ALIGNMENT = 4096, 64
#: What is walked here, torch wrote a moment ago.
_EVERYTHING = AllowList(name=lambda _: True, call=lambda _: True, make=lambda _: True)


def compact(saved: bytes) -> bytes:
    """Return a saved Lite archive with only what its interpreter reads, under stable names.

    The same module gives the same bytes, whatever the process compiled before.

    Args:
        saved: of ``_save_to_buffer_for_lite_interpreter``.

    Returns:
        The archive: ``data.pkl``, ``bytecode.pkl``, ``version`` and one member for each type of
        stored number; uncompressed.

    Raises:
        ExportError: two classes would get one name, or it holds a kind of number that is not known.
    """
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        # torch names the archive's folder after the file, which is a temporary one.
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    mangled: set[bytes] = set()
    data = _without_mangling(members["data.pkl"], mangled)
    bytecode = _without_mangling(members["bytecode.pkl"], mangled)
    if len(mangled) > 1:
        raise ExportError("the frozen module still holds several classes of one name")
    walked = walk(bytecode, _EVERYTHING)
    pool = _Pool(members)
    pool.placed(walked.value)
    kept = {"data.pkl": data, "bytecode.pkl": write_pickle(pool.placed(walked.value))}
    return _archive({**kept, **pool.members(), "version": members["version"]})


def _archive(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            # The first moment that the format knows, and one system: nothing of this machine.
            entry = zipfile.ZipInfo(f"{_FOLDER}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            archive.writestr(entry, content)
    return target.getvalue()


@dataclass
class _Shelf:
    """All stored numbers of one type: the member that they share, and where each tensor begins."""

    content: bytearray = field(default_factory=bytearray)
    starts: dict[bytes, int] = field(default_factory=dict)

    def place(self, data: bytes) -> int:
        """Return where these bytes begin, adding them when they are not there."""
        if data not in self.starts:
            if len(data) >= _ALIGNED_FROM:
                self.content.extend(bytes(-len(self.content) % _ALIGNMENT))
            self.starts[data] = len(self.content)
            self.content.extend(data)
        return self.starts[data]


class _Pool:
    """Puts the storages of all tensors of one type into one member."""

    def __init__(self, saved: dict[str, bytes]) -> None:
        self._saved = saved
        self._shelves: dict[str, _Shelf] = {}

    def members(self) -> dict[str, bytes]:
        """Return member name → content."""
        kinds = enumerate(self._shelves.values())
        return {f"constants/{_key(k)}": bytes(shelf.content) for k, shelf in kinds}

    def placed(self, value: Any) -> Any:
        """Return a walked value with every tensor at its new place.

        A member's size stands in each tensor of it: the value must be placed twice.
        """
        if isinstance(value, tuple):
            return tuple(map(self.placed, value))
        if isinstance(value, list):
            return [self.placed(part) for part in value]
        if isinstance(value, dict):
            return {key: self.placed(part) for key, part in value.items()}
        if isinstance(value, Instance):
            return Instance(value.kind, self.placed(value.state))
        if isinstance(value, Call):
            return self._call(value)
        return value

    def _call(self, call: Call) -> Call:
        name, arguments = call.function.text, call.arguments
        if name not in (_TENSOR, _QTENSOR):
            return Call(call.function, self.placed(arguments))
        kind, data = self._read(call)
        storage, start = self._place(kind, data)
        rest = arguments[4:]
        if name == _QTENSOR:
            rest = (self._qparams(rest[0]), *rest[1:])
        return Call(call.function, (storage, start + arguments[1], *arguments[2:4], *rest))

    def _qparams(self, qparams: tuple[Any, ...]) -> tuple[Any, ...]:
        scheme, scales, points, *axis = qparams
        if not isinstance(scales, Call):
            return qparams
        return (scheme, self._scales(scales), self._points(points), *axis)

    def _scales(self, call: Call) -> Call:
        kind, data = self._read(call)
        if kind == _DOUBLE:
            exact = np.frombuffer(data, "<f8")
            short = exact.astype("<f4")
            if np.array_equal(short, exact):
                kind, data = _FLOAT, short.tobytes()
        storage, start = self._place(kind, data)
        return Call(call.function, (storage, start + call.arguments[1], *call.arguments[2:]))

    def _points(self, call: Call) -> Call:
        kind, data = self._read(call)
        _, first, shape, strides, *rest = call.arguments
        if len(set(np.frombuffer(data, "<i8").tolist())) == 1:
            data, first, strides = data[: _WIDTHS[kind]], 0, (0,) * len(shape)
        storage, start = self._place(kind, data)
        return Call(call.function, (storage, start + first, shape, strides, *rest))

    def _read(self, call: Call) -> tuple[str, bytes]:
        """Return the storage class of a tensor and the bytes of its whole storage."""
        _, kind, key, _, count = call.arguments[0].key
        if kind.text not in _WIDTHS:
            raise ExportError(f"a Lite file with a {kind.text} cannot be written")
        return kind.text, self._saved[f"constants/{key}"] if count else b""

    def _place(self, kind: str, data: bytes) -> tuple[Persistent, int]:
        """Return the shared storage of a type and where in it ``data`` begins, in values."""
        shelf = self._shelves.setdefault(kind, _Shelf())
        start = shelf.place(data) // _WIDTHS[kind]
        number = list(self._shelves).index(kind)
        count = len(shelf.content) // _WIDTHS[kind]
        return Persistent(("storage", Name(kind), _key(number), "cpu", count)), start


def _key(number: int) -> str:
    return f"{number}.storage"


def _without_mangling(data: bytes, found: set[bytes]) -> bytes:
    """Return a pickle's bytes with the counters taken out of its class names; nothing is loaded.

    Args:
        data: a pickle of protocol 2, whose strings carry their own length and no frame does.
        found: collects the counters, so that two classes are never given one name.
    """
    starts = [(opcode.name, position) for opcode, _, position in pickletools.genops(data)]
    ends = [position for _, position in starts[1:]] + [len(data)]
    parts = []
    for (name, start), end in zip(starts, ends, strict=True):
        part = data[start:end]
        counters = _MANGLE.findall(part) if name in {"BINUNICODE", "GLOBAL"} else []
        if counters:
            found.update(counter.rstrip(b".") for counter in counters)
            part = _renamed(name, part)
        parts.append(part)
    return b"".join(parts)


def _renamed(opcode: str, part: bytes) -> bytes:
    if opcode == "GLOBAL":
        # "c<module>\n<class>\n": the counter is the module's last segment.
        return re.sub(rb"\.?" + _MANGLE.pattern, b"", part)
    text = _MANGLE.sub(b"", part[5:])
    return part[:1] + len(text).to_bytes(4, "little") + text
