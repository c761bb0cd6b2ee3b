"""The paired drop against an explicit resampling of images, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from records.recipe import CheckRecipe
from runtime_check.accuracy import accuracy_of, paired_drop

RECIPE = CheckRecipe()


def test_interval_agrees_with_resampling_the_images_themselves() -> None:
    rng = np.random.default_rng(1)
    reference = rng.random(500) < 0.7
    other = np.where(rng.random(500) < 0.1, rng.random(500) < 0.5, reference)
    found = paired_drop(reference, other, resamples=20000, confidence=0.95, seed=0)
    rows = rng.integers(0, 500, (20000, 500))
    difference = reference.astype(int) - other.astype(int)
    drops = 100 * difference[rows].mean(axis=1)
    assert found.estimate == pytest.approx(100 * difference.mean())
    low, high = np.quantile(drops, [0.025, 0.975])
    # 20,000 resamples place a 95 % quantile to about 0.03 points here.
    assert found.low == pytest.approx(low, abs=0.15)
    assert found.high == pytest.approx(high, abs=0.15)


def test_interval_covers_the_true_drop_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(400):
        reference = rng.random(400) < 0.6
        other = reference & ~(rng.random(400) < 0.1)  # true drop 6 points
        found = paired_drop(reference, other, resamples=500, confidence=0.9, seed=trial)
        covered += found.low <= 6.0 <= found.high
    assert 0.84 <= covered / 400 <= 0.95


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_same_seed_same_interval_and_the_estimate_lies_in_the_possible_range(
    pairs: list[tuple[bool, bool]],
) -> None:
    reference, other = (np.array(side) for side in zip(*pairs, strict=True))
    one = paired_drop(reference, other, resamples=100, confidence=0.95, seed=3)
    assert one == paired_drop(reference, other, resamples=100, confidence=0.95, seed=3)
    assert one.low <= one.high
    assert one.estimate == pytest.approx(100 * (reference.mean() - other.mean()))


def test_no_difference_gives_an_interval_of_no_width() -> None:
    hits = np.array([True, False, True])
    found = paired_drop(hits, hits, resamples=100, confidence=0.95, seed=0)
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)


def test_refuses_unpaired_or_empty() -> None:
    for left, right in ((np.ones(2, bool), np.ones(3, bool)), (np.ones(0, bool), np.ones(0, bool))):
        with pytest.raises(ValueError, match="same images"):
            paired_drop(left, right, resamples=100, confidence=0.95, seed=0)


def test_accuracy_of_counts_hits_agreement_and_the_images_that_disagree() -> None:
    labels = np.array([0, 1, 2, 3])
    found = accuracy_of(
        np.array([0, 1, 0, 0]),
        labels,
        fp32=np.array([0, 1, 2, 0]),
        eager=np.array([0, 1, 0, 3]),
        recipe=RECIPE,
    )
    assert found.top1 == 0.5
    assert found.agreement == 0.75
    assert found.disagreeing == (3,)
    assert found.drop_points is not None
    assert found.drop_points.estimate == 25.0
    alone = accuracy_of(labels, labels, fp32=None, eager=None, recipe=RECIPE)
    assert (alone.top1, alone.agreement, alone.disagreeing, alone.drop_points) == (
        1.0,
        None,
        (),
        None,
    )
