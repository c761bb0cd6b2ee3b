"""The packed wire format against its page, a second decoder, and bytes that are wrong."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records.manifest import WireTensor
from runtime_check.packed_wire import (
    NonZeroPaddingError,
    PackedSizeError,
    PackedWireError,
    ValueOutOfRangeError,
    pack,
    packed_size,
    unpack,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire-format.md"
Bytes = npt.NDArray[np.uint8]


@st.composite
def boundaries(draw: st.DrawFn) -> tuple[Bytes, int]:
    bits = draw(st.integers(1, 8))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    images = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(0, 2**bits, (images, *shape), dtype=np.uint8), bits


def as_one_number(values: list[int], bits: int) -> bytes:
    """Return the stream as the page defines it, by one large integer."""
    stream = sum(value << (i * bits) for i, value in enumerate(values))
    return stream.to_bytes(-(-len(values) * bits // 8), "little")


@given(boundaries())
@settings(max_examples=300, deadline=None)
def test_packing_is_one_little_endian_number_and_unpacking_undoes_it(
    case: tuple[Bytes, int],
) -> None:
    q, bits = case
    packed = pack(q, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (len(q), packed_size(q.shape[1:], bits))
    for image, row in zip(q, packed, strict=True):
        assert row.tobytes() == as_one_number(image.reshape(-1).tolist(), bits)
    assert np.array_equal(unpack(packed, bits, q.shape[1:]), q)
    assert unpack(packed, bits, q.shape[1:]).shape == q.shape


@given(st.integers(1, 8), st.integers(1, 30), st.data())
@settings(max_examples=300, deadline=None)
def test_every_byte_string_has_one_reading_or_is_refused(
    bits: int, count: int, data: st.DataObject
) -> None:
    size = packed_size((count,), bits)
    row = data.draw(st.binary(min_size=size, max_size=size))
    packed = np.frombuffer(row, np.uint8)[None]
    if int.from_bytes(row, "little") >> (count * bits):
        with pytest.raises(NonZeroPaddingError, match=f"{count} values of {bits} bits"):
            unpack(packed, bits, (count,))
    else:
        assert np.array_equal(pack(unpack(packed, bits, (count,)), bits), packed)


@pytest.mark.parametrize(
    ("bits", "expected"), [(8, 1536), (6, 1152), (4, 768), (3, 576), (2, 384), (1, 192)]
)
def test_bytes_of_a_boundary_of_24_by_8_by_8(bits: Any, expected: int) -> None:
    wire = WireTensor(shape=(24, 8, 8), scale=1.0, zero_point=0, bits=bits)
    assert wire.packed_bytes == packed_size(wire.shape, bits) == expected
    assert pack(np.zeros((2, 24, 8, 8), np.uint8), bits).shape == (2, expected)


def test_bytes_are_rounded_up() -> None:
    assert [packed_size((3,), bits) for bits in (1, 2, 3, 6, 8)] == [1, 1, 2, 3, 3]


def test_at_8_bits_the_bytes_are_the_tensor() -> None:
    q = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    assert np.array_equal(pack(q, 8), q.reshape(2, 128))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_a_value_that_does_not_fit_is_refused(bits: int) -> None:
    q = np.full((2, 3), 2**bits - 1, np.uint8)
    pack(q, bits)
    q[1, 2] += 1
    with pytest.raises(ValueOutOfRangeError, match=f"value {2**bits}, over the {2**bits - 1}"):
        pack(q, bits)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_another_number_of_bytes_is_refused(length: int) -> None:
    with pytest.raises(PackedSizeError, match="takes 2 bytes"):
        unpack(np.zeros((1, length), np.uint8), 3, (5,))


def test_other_types_and_bits_are_refused() -> None:
    with pytest.raises(PackedWireError, match="float32"):
        pack(np.zeros((1, 2), np.float32), 4)
    with pytest.raises(PackedWireError, match="bytes"):
        unpack(np.zeros(2, np.uint8), 4, (4,))
    for bits in (0, 9):
        with pytest.raises(PackedWireError, match="1 to 8"):
            pack(np.zeros((1, 2), np.uint8), bits)


def test_the_pages_examples_are_true_and_its_decoder_reads_every_width() -> None:
    globs: dict[str, Any] = {}
    found = doctest.DocTestParser().get_doctest(PAGE.read_text(), globs, "wire-format", None, 0)
    runner = doctest.DocTestRunner()
    runner.run(found, clear_globs=False)
    assert (runner.failures, runner.tries) == (0, len(found.examples))
    assert len(found.examples) >= 6
    read_image = found.globs["read_image"]
    rng = np.random.default_rng(0)
    for bits in (1, 2, 3, 4, 6, 8):
        for count in (1, 7, 8, 13):
            q = rng.integers(0, 2**bits, (1, count), dtype=np.uint8)
            assert read_image(pack(q, bits).tobytes(), count, bits) == q[0].tolist()
    with pytest.raises(ValueError, match="padding"):
        read_image(bytes([0xFF]), 1, 3)
