"""The streaming SQNR of two float boundaries against numpy on the whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from records.errors import ArtifactError
from runtime_check.float_parity import FloatTally


def test_agrees_with_numpy_and_finds_the_worst_image() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((50, 3, 4)).astype(np.float32)
    other = reference + np.float32(1e-4) * rng.standard_normal((50, 3, 4)).astype(np.float32)
    tally = FloatTally()
    for start in range(0, 50, 7):
        tally.update(reference[start : start + 7], other[start : start + 7])
    difference = reference.astype(float) - other.astype(float)
    expected = 10 * np.log10(np.sum(reference.astype(float) ** 2) / np.sum(difference**2))
    assert tally.parity_sqnr_db() == pytest.approx(expected)
    assert tally.max_abs == np.abs(difference).max()
    assert tally.worst is not None
    assert tally.worst.index == np.argmax(np.abs(difference).reshape(50, -1).max(axis=1))
    assert np.array_equal(tally.worst.other, other[tally.worst.index])


def test_equal_tensors_have_no_difference() -> None:
    tally = FloatTally()
    tally.update(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))
    assert tally.parity_sqnr_db() is None
    assert (tally.max_abs, tally.worst) == (0.0, None)


def test_refuses_other_shapes_and_a_reference_without_signal() -> None:
    tally = FloatTally()
    with pytest.raises(ValueError, match="shapes differ"):
        tally.update(np.ones((2, 2), np.float32), np.ones((2, 3), np.float32))
    tally.update(np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32))
    with pytest.raises(ArtifactError, match="zero on every image"):
        tally.parity_sqnr_db()
