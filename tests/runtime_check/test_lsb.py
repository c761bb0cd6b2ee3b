"""The streaming histogram against plain numpy on the whole arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from records.errors import ArtifactError
from records.manifest import WireTensor
from records.parity import LsbDifference
from runtime_check.lsb import KEPT_WORST, LsbTally, reference_batch

Bytes = npt.NDArray[np.uint8]

ZERO_POINT = 31
WIRE = WireTensor(shape=(1,), scale=0.5, zero_point=ZERO_POINT)


def tallied(reference: Bytes, artifact: Bytes, batch: int) -> LsbDifference:
    tally = LsbTally()
    for start in range(0, len(reference), batch):
        part = slice(start, start + batch)
        tally.update(reference_batch(reference[part], WIRE), artifact[part])
    return tally.summary()


pairs = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape), hnp.arrays(np.uint8, shape), st.integers(1, 6)
    )
)


@given(pairs)
@settings(max_examples=200, deadline=None)
def test_agrees_with_numpy_on_whole_arrays(pair: tuple[Bytes, Bytes, int]) -> None:
    reference, artifact, batch = pair
    distance = np.abs(reference.astype(int) - artifact.astype(int))
    signal = float(np.sum((reference.astype(float) - ZERO_POINT) ** 2))
    noise = float(np.sum(distance.astype(float) ** 2))
    if signal == 0 and noise > 0:
        with pytest.raises(ArtifactError, match="zero on every image"):
            tallied(reference, artifact, batch)
        return
    found = tallied(reference, artifact, batch)
    assert found.values == distance.size
    assert found.max_lsb == distance.max()
    assert found.histogram == tuple(np.histogram(distance, np.arange(distance.max() + 2))[0])
    assert found.share_identical == np.mean(distance == 0)
    assert found.share_within_1_lsb == np.mean(distance <= 1)
    if noise == 0:
        assert found.parity_sqnr_db is None
    else:
        assert found.parity_sqnr_db == pytest.approx(10 * np.log10(signal / noise))


@given(pairs)
@settings(max_examples=100, deadline=None)
def test_worst_images_do_not_depend_on_the_batch_size(pair: tuple[Bytes, Bytes, int]) -> None:
    reference, artifact, batch = pair
    reference = reference | np.uint8(128)  # so that there is a signal
    assert (
        tallied(reference, artifact, batch).worst
        == tallied(reference, artifact, len(reference)).worst
    )


def test_worst_images_are_the_worst_with_their_outputs() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (300, 4, 2), dtype=np.uint8)
    artifact = reference.copy()
    artifact[::2, 0, 0] ^= rng.integers(0, 256, 150, dtype=np.uint8)
    tally = LsbTally()
    for start in range(0, 300, 7):
        part = slice(start, start + 7)
        tally.update(reference_batch(reference[part], WIRE), artifact[part])
    distance = np.abs(reference.astype(int) - artifact.astype(int)).reshape(300, -1)
    order = sorted(range(300), key=lambda i: (-distance[i].max(), -distance[i].sum(), i))
    worst = tally.worst
    assert worst is not None
    assert worst.index.tolist() == order[:KEPT_WORST]
    assert np.array_equal(worst.reference, reference[worst.index])
    assert np.array_equal(worst.artifact, artifact[worst.index])
    assert [w.index for w in tally.summary().worst] == order[:KEPT_WORST]


def test_known_positions_change_nothing() -> None:
    rng = np.random.default_rng(1)
    reference = rng.integers(0, 256, (20, 6), dtype=np.uint8)
    artifact = reference.copy()
    artifact[3, 2:4] ^= 5
    artifact[9, 1] ^= 200
    whole, known = LsbTally(), LsbTally()
    batch = reference_batch(reference, WIRE)
    whole.update(batch, artifact)
    # More positions than differ: a float boundary may be off the grid and round to the same step.
    known.update(batch, artifact, 0, np.array([0, 3 * 6 + 2, 3 * 6 + 3, 9 * 6 + 1, 80]))
    assert known.summary() == whole.summary()
    assert [worst.index for worst in whole.summary().worst] == [9, 3]


def test_identical_has_no_worst_image_and_no_decibels() -> None:
    reference = np.arange(64, dtype=np.uint8).reshape(4, 16)
    found = tallied(reference, reference.copy(), 3)
    assert (found.max_lsb, found.histogram, found.parity_sqnr_db) == (0, (64,), None)
    assert found.share_identical == found.share_within_1_lsb == 1.0
    assert found.worst == ()


def test_update_says_whether_the_batch_is_identical() -> None:
    reference = reference_batch(np.full((2, 3), 40, dtype=np.uint8), WIRE)
    tally = LsbTally()
    assert tally.update(reference, reference.q.copy())
    assert not tally.update(reference, reference.q.copy(), off_grid=1)
    assert not tally.update(reference, reference.q + np.uint8(1))
    assert tally.summary().off_grid == 1


def test_refuses_another_shape_or_dtype_and_nothing_at_all() -> None:
    reference = reference_batch(np.zeros((2, 3), dtype=np.uint8), WIRE)
    with pytest.raises(ValueError, match="uint8"):
        LsbTally().update(reference, np.zeros((2, 4), dtype=np.uint8))
    with pytest.raises(ArtifactError, match="no image"):
        LsbTally().summary()
