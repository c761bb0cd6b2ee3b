"""The strict reader of flatbuffers: what it accepts, and that nothing else gets through."""

from __future__ import annotations

import struct

import flatbuffers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.flatbuffer import MAX_DEPTH, FlatbufferError, Slot, parse, slots

_INNER = slots(Slot("number", "i4"), Slot("words", "[text]"))
_SCHEMA = slots(
    Slot("small", "u1"),
    Slot("name", "text"),
    Slot("numbers", "[i4]"),
    Slot("parts", "[table]", schema=_INNER),
    None,
    Slot("choice_type", "u1"),
    Slot("choice", "union", union={1: _INNER}),
)


def _file(*, refused: bool = False, choice: int = 1) -> bytes:
    """Return a file of the schema: parts of one number and two words each."""
    builder = flatbuffers.Builder(0)
    words = [builder.CreateString(word) for word in ("a", "µ")]
    builder.StartVector(4, 2, 4)
    for word in reversed(words):
        builder.PrependUOffsetTRelative(word)
    listed = builder.EndVector()
    builder.StartObject(2)
    builder.PrependInt32Slot(0, -7, 0)
    builder.PrependUOffsetTRelativeSlot(1, listed, 0)
    inner = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(inner)
    parts = builder.EndVector()
    numbers = builder.CreateNumpyVector(np.array([1, -2, 3], np.int32))
    name = builder.CreateString("edge")
    builder.StartObject(7)
    builder.PrependUint8Slot(0, 200, 0)
    builder.PrependUOffsetTRelativeSlot(1, name, 0)
    builder.PrependUOffsetTRelativeSlot(2, numbers, 0)
    builder.PrependUOffsetTRelativeSlot(3, parts, 0)
    if refused:
        builder.PrependInt32Slot(4, 5, 0)
    builder.PrependUint8Slot(5, choice, 0)
    builder.PrependUOffsetTRelativeSlot(6, inner, 0)
    builder.Finish(builder.EndObject(), b"TEST")
    return bytes(builder.Output())


def test_every_kind_of_field_is_read() -> None:
    found = parse(_file(), _SCHEMA, identifier=b"TEST")
    inner = {"number": -7, "words": ["a", "µ"]}
    assert found.pop("numbers").tolist() == [1, -2, 3]
    assert found == {
        "small": 200,
        "name": "edge",
        "parts": [inner],
        "choice_type": 1,
        "choice": inner,
    }


def test_a_field_that_the_schema_leaves_out_is_refused() -> None:
    with pytest.raises(FlatbufferError, match="field 4"):
        parse(_file(refused=True), _SCHEMA, identifier=b"TEST")


def test_an_unknown_kind_of_union_is_refused() -> None:
    with pytest.raises(FlatbufferError, match="choice"):
        parse(_file(choice=2), _SCHEMA, identifier=b"TEST")


def test_another_identifier_is_refused() -> None:
    with pytest.raises(FlatbufferError, match="NONE"):
        parse(_file(), _SCHEMA, identifier=b"NONE")


def test_tables_that_hold_themselves_end() -> None:
    schema: dict[int, Slot] = {}
    schema[0] = Slot("again", "table", schema=schema)
    # Root table at 16 with its fields at 8: the one field leads to the root itself.
    data = struct.pack("<I4sHHHHiI", 16, b"TEST", 6, 8, 4, 0, 8, 0xFFFFFFFC)
    with pytest.raises(FlatbufferError, match=rf"outside|deeper than {MAX_DEPTH}"):
        parse(data, schema, identifier=b"TEST")


@given(st.integers(8, len(_file()) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(position: int, value: int) -> None:
    data = bytearray(_file())
    data[position] = value
    _read_or_refuse(bytes(data))


@given(st.integers(0, len(_file()) - 1))
def test_a_cut_file_is_read_or_refused(length: int) -> None:
    _read_or_refuse(_file()[:length])


def _read_or_refuse(data: bytes) -> None:
    try:
        parse(data, _SCHEMA, identifier=b"TEST")
    except FlatbufferError:
        return
