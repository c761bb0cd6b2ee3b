"""A strict, bounded reader of the protobuf wire format, driven by a table of known fields.

Written because a bundle is verified on machines without ``onnx``, and because the generated
parsers accept what two readers may understand differently: unknown fields, a singular field given
twice, groups. All of that is refused here. The format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["int", "float", "double", "text", "bytes", "message"]
Message = dict[str, Any]

MAX_DEPTH = 16
#: Over a whole file. A network of a thousand layers has about 100,000 fields.
MAX_FIELDS = 2_000_000

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPE: dict[Kind, int] = {
    "int": _VARINT,
    "float": _FIXED32,
    "double": _FIXED64,
    "text": _LENGTH,
    "bytes": _LENGTH,
    "message": _LENGTH,
}


class WireFormatError(ValueError):
    """The bytes are not a message of the schema."""


@dataclass(frozen=True)
class Field:
    """One field: its name, kind, whether it repeats, and the schema of a message."""

    name: str
    kind: Kind
    repeated: bool = False
    schema: Schema = field(default_factory=dict, repr=False)


#: Field number → field. A field that is not in the table is refused.
Schema = Mapping[int, Field]


def parse(data: bytes, schema: Schema) -> Message:
    """Parse a whole message.

    Args:
        data: the bytes of the message.
        schema: the only fields that are accepted.

    Returns:
        Field name → value, absent fields left out; repeated fields are lists. Integers are signed
        64-bit (an enum is its number), ``bytes`` are memoryviews of ``data``, not copies; repeated
        ``float`` and ``double`` are one list of memoryviews of little-endian IEEE numbers.

    Raises:
        WireFormatError: truncated, malformed, too deep, too many fields, a field that the schema
            does not know, of another wire type, or a singular one given twice.
    """
    return _Reader().message(memoryview(data), schema, 0)


class _Reader:
    """Counts the fields read so far, over all nested messages."""

    def __init__(self) -> None:
        self._fields = 0

    def message(self, data: memoryview, schema: Schema, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise WireFormatError(f"messages nest deeper than {MAX_DEPTH}")
        found: Message = {}
        position = 0
        while position < len(data):
            position = self._field(data, position, schema, found, depth)
        return found

    def _field(
        self, data: memoryview, position: int, schema: Schema, found: Message, depth: int
    ) -> int:
        self._count(1)
        key, position = read_varint(data, position)
        number, wire_type = key >> 3, key & 7
        known = schema.get(number)
        if known is None:
            raise WireFormatError(f"field {number} is not allowed here")
        if not known.repeated and known.name in found:
            raise WireFormatError(f"field {known.name} is given twice")
        packed = known.repeated and wire_type == _LENGTH and known.kind in _PACKABLE
        if wire_type != _WIRE_TYPE[known.kind] and not packed:
            raise WireFormatError(f"field {known.name} has wire type {wire_type}")
        if wire_type == _VARINT:
            value, position = read_varint(data, position)
            values: list[Any] = [_signed(value)]
        else:
            raw, position = _payload(data, position, wire_type)
            values = self._packed(raw, known) if packed else [self._value(raw, known, depth)]
        if known.repeated:
            found.setdefault(known.name, []).extend(values)
        else:
            found[known.name] = values[0]
        return position

    def _value(self, raw: memoryview, known: Field, depth: int) -> Any:
        if known.kind == "message":
            return self.message(raw, known.schema, depth + 1)
        if known.kind == "text":
            return _text(raw, known)
        if known.kind in ("float", "double") and not known.repeated:
            return struct.unpack("<f" if known.kind == "float" else "<d", raw)[0]
        return raw

    def _packed(self, raw: memoryview, known: Field) -> list[Any]:
        if known.kind == "int":
            return self._packed_integers(raw)
        if len(raw) % (4 if known.kind == "float" else 8):
            raise WireFormatError(f"field {known.name} ends inside a number")
        return [raw]

    def _packed_integers(self, raw: memoryview) -> list[int]:
        values = []
        position = 0
        while position < len(raw):
            value, position = read_varint(raw, position)
            values.append(_signed(value))
        self._count(len(values))
        return values

    def _count(self, fields: int) -> None:
        self._fields += fields
        if self._fields > MAX_FIELDS:
            raise WireFormatError(f"the file has more than {MAX_FIELDS} fields")


_PACKABLE = frozenset({"int", "float", "double"})


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read one unsigned variable-length integer of at most 64 bits.

    Returns:
        The value and the position after it.

    Raises:
        WireFormatError: truncated, or longer than 64 bits.
    """
    value = shift = 0
    while True:
        if position >= len(data):
            raise WireFormatError("the file ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise WireFormatError("a number has more than 64 bits")
    if value >= 1 << 64:
        raise WireFormatError("a number has more than 64 bits")
    return value, position


def _payload(data: memoryview, position: int, wire_type: int) -> tuple[memoryview, int]:
    if wire_type == _LENGTH:
        length, position = read_varint(data, position)
    else:
        length = 4 if wire_type == _FIXED32 else 8
    if length > len(data) - position:
        raise WireFormatError(f"a field of {length} bytes goes beyond the end")
    return data[position : position + length], position + length


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _text(raw: memoryview, known: Field) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise WireFormatError(f"field {known.name} is not UTF-8") from error
