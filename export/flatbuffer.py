"""A strict, bounded reader of flatbuffers, driven by a table of known fields.

Written because a bundle is verified on machines without the runtimes, and because generated readers
follow every offset without looking where it leads. A field that the schema does not know, an offset
that leads outside, a text that is no UTF-8: all refused. The format: https://flatbuffers.dev/internals
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Message = dict[str, Any]

MAX_DEPTH = 8
#: Over a whole file, tables, vectors and texts. A network of a thousand layers has about 50,000.
MAX_PARTS = 1_000_000
IDENTIFIER_BYTES = 4

#: Scalars as NumPy writes them.
_SCALARS = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
#: Bytes of a structure, such as the ``V12`` of three numbers of four bytes.
_STRUCTURES = ("V12",)
_WIDTH = {kind: np.dtype(kind).itemsize for kind in (*_SCALARS, *_STRUCTURES)}


class FlatbufferError(ValueError):
    """The bytes are not a flatbuffer of the schema."""


@dataclass(frozen=True)
class Slot:
    """One field of a table.

    ``kind``: a NumPy scalar such as ``i4``; the same in brackets for a vector of it; ``text`` and
    ``[text]``; ``table`` and ``[table]`` of ``schema``; ``union``, whose type number stands in the
    field ``<name>_type`` before it and chooses from ``union``.
    """

    name: str
    kind: str
    schema: Schema = field(default_factory=dict, repr=False)
    union: Mapping[int, Schema] = field(default_factory=dict, repr=False)


#: Slot number → field. A slot that is not in the table is refused.
Schema = Mapping[int, Slot]


def slots(*fields: Slot | None) -> Schema:
    """Return a schema of consecutive slots; None stands for one that is refused."""
    return {number: slot for number, slot in enumerate(fields) if slot is not None}


def parse(data: bytes | memoryview, schema: Schema, *, identifier: bytes) -> Message:
    """Parse a whole flatbuffer.

    Args:
        data: the bytes; offsets may not lead outside.
        schema: of the root table.
        identifier: the four bytes after the root offset.

    Returns:
        Field name → value, absent fields left out. Vectors of numbers are NumPy arrays that read
        ``data``, vectors of tables are lists.

    Raises:
        FlatbufferError: another identifier, truncated, malformed, too deep, too many parts, or a
            field that the schema does not know.
    """
    view = memoryview(data)
    if len(view) < 2 * IDENTIFIER_BYTES or bytes(view[4:8]) != identifier:
        raise FlatbufferError(f"it does not begin as a {identifier.decode('ascii')} file")
    reader = _Reader(view)
    return reader.table(reader.follow(0), schema, 0)


def _little(kind: str) -> np.dtype[Any]:
    return np.dtype(kind).newbyteorder("<")


class _Reader:
    """Counts the parts read so far; a part that is referred to twice counts twice."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._parts = 0

    def number(self, kind: str, position: int) -> Any:
        width = _WIDTH[kind]
        if not 0 <= position <= len(self._data) - width:
            raise FlatbufferError("an offset leads outside the file")
        return np.frombuffer(self._data, _little(kind), 1, position)[0].item()

    def follow(self, position: int) -> int:
        """Return where the forward offset at ``position`` leads."""
        target = position + int(self.number("u4", position))
        if target == position:
            raise FlatbufferError("an offset leads to itself")
        return target

    def table(self, position: int, schema: Schema, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise FlatbufferError(f"tables nest deeper than {MAX_DEPTH}")
        self._count()
        found: Message = {}
        for number, offset in enumerate(self._vtable(position)):
            if offset == 0:
                continue
            slot = schema.get(number)
            if slot is None:
                raise FlatbufferError(f"a table has the field {number}, which no bundle needs")
            found[slot.name] = self._value(position + offset, slot, found, depth)
        return found

    def _vtable(self, position: int) -> tuple[int, ...]:
        start = position - int(self.number("i4", position))
        size = int(self.number("u2", start))
        inline = int(self.number("u2", start + 2))
        if size < 4 or size % 2 or not 0 <= start <= len(self._data) - size:
            raise FlatbufferError("a table of fields leads outside the file")
        if inline < 4 or position + inline > len(self._data):
            raise FlatbufferError("a table leads outside the file")
        offsets = struct.unpack_from(f"<{size // 2 - 2}H", self._data, start + 4)
        if any(offset >= inline for offset in offsets):
            raise FlatbufferError("a field leads outside its table")
        return offsets

    def _value(self, position: int, slot: Slot, found: Message, depth: int) -> Any:
        if slot.kind in _WIDTH:
            return self.number(slot.kind, position)
        target = self.follow(position)
        if slot.kind == "text":
            return self._text(target)
        if slot.kind == "table":
            return self.table(target, slot.schema, depth + 1)
        if slot.kind == "union":
            chosen = slot.union.get(found.get(f"{slot.name}_type", 0))
            if chosen is None:
                raise FlatbufferError(f"{slot.name} is of a kind that no bundle needs")
            return self.table(target, chosen, depth + 1)
        if slot.kind == "[table]":
            return self._tables(target, slot.schema, depth)
        if slot.kind == "[text]":
            return [self._text(place) for place in self._places(target)]
        return self._vector(target, slot.kind[1:-1])

    def _vector(self, position: int, kind: str) -> np.ndarray[Any, Any]:
        self._count()
        length = int(self.number("u4", position))
        if length * _WIDTH[kind] > len(self._data) - position - 4:
            raise FlatbufferError("a list leads outside the file")
        return np.frombuffer(self._data, _little(kind), length, position + 4)

    def _tables(self, position: int, schema: Schema, depth: int) -> list[Message]:
        return [self.table(place, schema, depth + 1) for place in self._places(position)]

    def _places(self, position: int) -> list[int]:
        """Return where a list of offsets leads."""
        offsets = self._vector(position, "u4")
        if len(offsets) > MAX_PARTS:
            raise FlatbufferError(f"the file has more than {MAX_PARTS} parts")
        first = position + 4
        return [first + 4 * number + int(offset) for number, offset in enumerate(offsets)]

    def _text(self, position: int) -> str:
        try:
            return self._vector(position, "u1").tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise FlatbufferError("a text is not UTF-8") from error

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise FlatbufferError(f"the file has more than {MAX_PARTS} parts")
