"""The wire reader against Google's own parser (through the ``onnx`` package) as oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from export.onnx_schema import MODEL, TENSOR
from export.protobuf import MAX_DEPTH, Field, Schema, WireFormatError, parse, read_varint

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


@st.composite
def tensors(draw: st.DrawFn) -> TensorProto:
    tensor = TensorProto()
    tensor.dims.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)))
    if draw(st.booleans()):
        tensor.data_type = draw(st.integers(-(2**31), 2**31 - 1))
    tensor.float_data.extend(draw(st.lists(FINITE, max_size=5)))
    tensor.int32_data.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)))
    tensor.double_data.extend(draw(st.lists(st.floats(allow_nan=False), max_size=3)))
    if draw(st.booleans()):
        tensor.raw_data = draw(st.binary(max_size=20))
    if draw(st.booleans()):
        tensor.name = draw(st.text(max_size=10))
    return tensor


@given(tensors())
def test_tensors_are_read_as_google_reads_them(tensor: TensorProto) -> None:
    found = parse(tensor.SerializeToString(), TENSOR)
    assert found.get("dims", []) == list(tensor.dims)
    assert found.get("int32_data", []) == list(tensor.int32_data)
    assert found.get("data_type", 0) == tensor.data_type
    assert found.get("name", "") == tensor.name
    assert bytes(found.get("raw_data", b"")) == tensor.raw_data
    for name, dtype in (("float_data", "<f4"), ("double_data", "<f8")):
        stored = np.frombuffer(b"".join(found.get(name, [])), dtype=dtype)
        assert stored.tolist() == list(getattr(tensor, name))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_random_bytes_are_read_or_refused_and_never_more_lax_than_google(data: bytes) -> None:
    try:
        parse(data, MODEL)
    except WireFormatError:
        return
    # What this accepts, Google's parser must accept too.
    onnx.ModelProto.FromString(data)


@given(st.data())
def test_every_truncation_or_flip_is_read_or_refused_by_name(data: st.DataObject) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", strides=[2, 2], alpha=0.5)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 2], [0.5, 1.5])
    graph = helper.make_graph([node], "g", [value], [], initializer=[weight])
    good = bytearray(helper.make_model(graph).SerializeToString())
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        parse(cut, MODEL)
    except WireFormatError:
        return
    onnx.ModelProto.FromString(cut)


def test_the_schema_is_the_one_of_onnx() -> None:
    kinds = {
        1: "double",
        2: "float",
        3: "int",
        4: "int",
        5: "int",
        9: "text",
        12: "bytes",
        14: "int",
    }

    def compare(descriptor: Any, schema: Schema) -> None:
        theirs: dict[int, Any] = {f.number: f for f in descriptor.fields}
        for number, field in schema.items():
            other = theirs[number]
            assert other.name == field.name
            assert other.is_repeated == field.repeated
            if field.kind == "message":
                compare(other.message_type, field.schema)
            elif other.message_type is None:
                assert kinds[other.type] == field.kind

    compare(onnx.ModelProto.DESCRIPTOR, MODEL)


@given(st.integers(0, 2**64 - 1))
def test_varints_are_read_back(value: int) -> None:
    data = varint(value)
    assert read_varint(memoryview(data), 0) == (value, len(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x08", "ends inside"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "64 bits"),
        (b"\x08\x01\x08\x01", "twice"),
        (b"\x0a\x01a", "wire type 2"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x01", "not allowed"),
        (b"\xf8\x7f\x01", "not allowed"),
        (b"\x12\x05ab", "beyond the end"),
        (b"\x12\xff\xff\xff\xff\x0f", "beyond the end"),
        (b"\x12\x01\xff", "UTF-8"),
        (b"\x3a\x04\x0b\x0b\x0b\x0b", "not allowed|wire type"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(WireFormatError, match=reason):
        parse(data, MODEL)


def test_depth_and_number_of_fields_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    endless: dict[int, Field] = {}
    endless[1] = Field("inner", "message", schema=endless)
    data = b""
    for _ in range(MAX_DEPTH):
        data = b"\x0a" + varint(len(data)) + data
    parse(data, endless)
    with pytest.raises(WireFormatError, match="deeper"):
        parse(b"\x0a" + varint(len(data)) + data, endless)

    monkeypatch.setattr("export.protobuf.MAX_FIELDS", 100)
    many: Schema = {1: Field("n", "int", repeated=True)}
    parse(b"\x08\x01" * 100, many)
    for data in (b"\x08\x01" * 101, b"\x0a\x64" + b"\x01" * 100):
        with pytest.raises(WireFormatError, match="more than 100 fields"):
            parse(data, many)
