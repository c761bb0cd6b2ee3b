"""Writes what `export.pickle_walk` reads: inert records back to a pickle of protocol 2.

Only opcodes that torch's C++ unpickler knows (``torch/csrc/jit/serialization/unpickler.cpp``) are
used. What is equal is written once and recalled afterwards, as torch's own pickler does for texts
only; lists, dicts and instances, which could be changed, are shared only where they were one.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

from export.pickle_walk import Call, Instance, Name, Persistent

_PROTOCOL = b"\x80\x02"
_STOP = b"."
#: Written in no more bytes than recalling takes.
_SHORT = (int, type(None))


def write_pickle(value: Any) -> bytes:
    """Return a pickle that `export.pickle_walk.walk` reads as an equal value.

    Args:
        value: ints of 64 bits, floats, texts, None, tuples, lists, dicts with text keys, and
            ``Name``, ``Call``, ``Instance`` and ``Persistent``.

    Raises:
        TypeError: it holds anything else.
        OverflowError: it holds an int of more than 64 bits.
    """
    return _PROTOCOL + b"".join(_Writer(value).parts) + _STOP


class _Writer:
    def __init__(self, value: Any) -> None:
        self.parts: list[bytes] = []
        self._uses: Counter[Any] = Counter()
        self._memo: dict[Any, int] = {}
        self._count(value)
        self._put(value)

    def _count(self, value: Any) -> None:
        key = _key(value)
        self._uses[key] += 1
        if self._uses[key] == 1:
            for part in _inside(value):
                self._count(part)

    def _put(self, value: Any) -> None:
        key = _key(value)
        if key in self._memo:
            self.parts.append(_numbered(b"h", b"j", self._memo[key]))
            return
        write = _WRITERS.get(type(value))
        if write is None:
            raise TypeError(f"a {type(value).__name__} cannot be written")
        write(self, value)
        if self._uses[key] > 1 and not isinstance(value, _SHORT) and value != ():
            self._memo[key] = len(self._memo)
            self.parts.append(_numbered(b"q", b"r", self._memo[key]))

    def _integer(self, value: int) -> None:
        if 0 <= value < 1 << 8:
            self.parts.append(struct.pack("<cB", b"K", value))
        elif 0 <= value < 1 << 16:
            self.parts.append(struct.pack("<cH", b"M", value))
        elif -(1 << 31) <= value < 1 << 31:
            self.parts.append(struct.pack("<ci", b"J", value))
        else:
            # torch reads eight bytes and no other length.
            self.parts.append(b"\x8a\x08" + value.to_bytes(8, "little", signed=True))

    def _text(self, value: str) -> None:
        raw = value.encode()
        self.parts.append(struct.pack("<cI", b"X", len(raw)) + raw)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        ends = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}
        if len(value) > len(ends) - 1:
            self.parts.append(b"(")
        for part in value:
            self._put(part)
        self.parts.append(ends.get(len(value), b"t"))

    def _list(self, value: list[Any]) -> None:
        self._filled(b"]", b"e", value)

    def _dict(self, value: dict[str, Any]) -> None:
        self._filled(b"}", b"u", [part for item in value.items() for part in item])

    def _filled(self, empty: bytes, end: bytes, values: list[Any]) -> None:
        self.parts.append(empty)
        if values:
            self.parts.append(b"(")
            for part in values:
                self._put(part)
            self.parts.append(end)

    def _name(self, value: Name) -> None:
        module, _, name = value.text.rpartition(" ")
        self.parts.append(f"c{module}\n{name}\n".encode("ascii"))

    def _call(self, value: Call) -> None:
        self._put(value.function)
        self._put(value.arguments)
        self.parts.append(b"R")

    def _instance(self, value: Instance) -> None:
        self._put(value.kind)
        self.parts.append(b")\x81")
        self._put(value.state)
        self.parts.append(b"b")

    def _persistent(self, value: Persistent) -> None:
        self._put(value.key)
        self.parts.append(b"Q")


def _numbered(short: bytes, long: bytes, number: int) -> bytes:
    return short + bytes([number]) if number < 1 << 8 else struct.pack("<cI", long, number)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, Call):
        yield from (value.function, value.arguments)
    elif isinstance(value, Instance):
        yield from (value.kind, value.state)
    elif isinstance(value, Persistent):
        yield value.key


def _key(value: Any) -> Any:
    """Return what two values share when one may stand for the other."""
    if isinstance(value, tuple):
        return (tuple, *map(_key, value))
    if isinstance(value, Call):
        return (Call, _key(value.function), _key(value.arguments))
    if isinstance(value, Persistent):
        return (Persistent, _key(value.key))
    if isinstance(value, list | dict | Instance):
        return (type(value), id(value))
    if isinstance(value, float):
        # 0.0 equals −0.0, and is another number.
        return (float, struct.pack("<d", value))
    return (type(value), value)


_WRITERS: dict[type, Any] = {
    bool: lambda w, v: w.parts.append(b"\x88" if v else b"\x89"),
    int: _Writer._integer,
    float: lambda w, v: w.parts.append(struct.pack(">cd", b"G", v)),
    str: _Writer._text,
    type(None): lambda w, _: w.parts.append(b"N"),
    tuple: _Writer._tuple,
    list: _Writer._list,
    dict: _Writer._dict,
    Name: _Writer._name,
    Call: _Writer._call,
    Instance: _Writer._instance,
    Persistent: _Writer._persistent,
}
