"""The wire's grid against torch's own quantize and dequantize, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from records.errors import ArtifactError
from records.manifest import WireTensor
from runtime_check.wire import dequantize, differing_values, sent_values, to_wire, to_wire_near

ALL = np.arange(256, dtype=np.uint8).reshape(16, 16)

wires = st.builds(
    lambda scale, zero_point: WireTensor(shape=(1,), scale=scale, zero_point=zero_point),
    st.floats(2.0**-20, 2.0**10, width=32),
    st.integers(0, 255),
)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@given(wires)
@settings(max_examples=300, deadline=None)
def test_dequantize_is_torchs_bit_for_bit(wire: WireTensor) -> None:
    tensor = torch._make_per_tensor_quantized_tensor(
        torch.from_numpy(ALL.copy()), wire.scale, wire.zero_point
    )
    assert differing_values(dequantize(ALL, wire), tensor.dequantize().numpy()) == 0


@given(wires)
@settings(max_examples=300, deadline=None)
def test_to_wire_undoes_dequantize_and_finds_all_on_the_grid(wire: WireTensor) -> None:
    q, off_grid = to_wire(dequantize(ALL, wire), wire)
    assert off_grid == 0
    assert np.array_equal(q, ALL)


def test_to_wire_counts_what_is_off_the_grid() -> None:
    wire = WireTensor(shape=(4,), scale=0.5, zero_point=10)
    real = np.array([[0.0, 0.5, 0.6, 200.0], [np.nan, -5.0, -5.5, np.inf]], dtype=np.float32)
    q, off_grid = to_wire(real, wire)
    assert q.tolist() == [[10, 11, 11, 255], [0, 0, 0, 255]]
    assert off_grid == 5


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_to_wire_and_sent_values_know_the_bits(bits: Any) -> None:
    wire = WireTensor(shape=(1,), scale=0.5, zero_point=1, bits=bits)
    inside = np.arange(2**bits, dtype=np.uint8)
    q, off_grid = to_wire(dequantize(inside, wire), wire)
    assert (q.tolist(), off_grid) == (inside.tolist(), 0)
    above = dequantize(np.array([2**bits], np.uint8), wire)
    q, off_grid = to_wire(above, wire)
    assert (q.tolist(), off_grid) == ([2**bits - 1], 1)
    assert np.array_equal(sent_values(inside, wire, "edge"), inside)
    with pytest.raises(ArtifactError, match=f"edge sent the value {2**bits}, over"):
        sent_values(np.array([0, 2**bits], np.uint8), wire, "edge")
    with pytest.raises(ArtifactError, match="sent int64"):
        sent_values(np.array([0]), wire, "edge")


def test_differing_values_tells_minus_zero_and_one_bit() -> None:
    left = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    right = np.array([-0.0, np.nextafter(np.float32(1), np.float32(2)), 2.0], dtype=np.float32)
    assert differing_values(left, right) == 2
    assert differing_values(left, left.copy()) == 0


@given(wires, hnp.arrays(np.float32, (3, 5)), hnp.arrays(np.uint8, (3, 5)))
@settings(max_examples=200, deadline=None)
def test_near_is_the_same_whatever_is_near(
    wire: WireTensor, real: npt.NDArray[np.float32], near: npt.NDArray[np.uint8]
) -> None:
    near_real = dequantize(near, wire)
    mixed = np.where(near > 100, near_real, real)
    q, off_grid = to_wire(mixed, wire)
    found = to_wire_near(mixed, wire, near, near_real)
    assert np.array_equal(found.q, q)
    assert found.off_grid == off_grid
    assert set(np.flatnonzero(q != near)) <= set(found.positions.tolist())
