from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speedup import SMALLEST_EFFECT, SpeedRatio, _Pool, speed_ratio
from benchmarks.timing import Subject, interleave, nearest_rank
from records.recipe import BenchRecipe

Blocks = list[list[int]]


def _noisy_blocks(median: float, seed: int, rounds: int = 30) -> Blocks:
    rng = np.random.default_rng(seed)
    weather = np.random.default_rng(99).normal(1.0, 0.05, rounds)
    return [(median * state * rng.lognormal(0, 0.05, 20)).astype(int).tolist() for state in weather]


def _verdict(baseline: Blocks, subject: Blocks) -> str:
    return speed_ratio(baseline, subject, confidence=0.95, seed=0).verdict


def test_a_slow_baseline_makes_the_subject_faster() -> None:
    assert _verdict(_noisy_blocks(2e6, 1), _noisy_blocks(1e6, 2)) == "faster"


def test_a_slow_subject_is_slower() -> None:
    assert _verdict(_noisy_blocks(1e6, 1), _noisy_blocks(2e6, 2)) == "slower"


@pytest.mark.parametrize("seed", range(20))
def test_equal_subjects_show_no_speed_up(seed: int) -> None:
    found = _verdict(_noisy_blocks(1e6, seed), _noisy_blocks(1e6, seed + 100))
    assert found == "no speed-up shown"


def test_an_effect_below_the_smallest_is_not_called() -> None:
    steady = [[1000] * 10] * 30
    inside = [[round(1000 / (1 + SMALLEST_EFFECT * 0.9))] * 10] * 30
    beyond = [[round(1000 / (1 + SMALLEST_EFFECT * 1.2))] * 10] * 30
    assert _verdict(steady, inside) == "no speed-up shown"
    assert _verdict(inside, steady) == "no speed-up shown"
    assert _verdict(steady, beyond) == "faster"
    assert _verdict(beyond, steady) == "slower"


def test_the_interval_must_lie_wholly_beyond() -> None:
    assert SpeedRatio(ratio=1.5, low=1.01, high=2.0).verdict == "no speed-up shown"
    assert SpeedRatio(ratio=0.7, low=0.5, high=0.99).verdict == "no speed-up shown"


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 10**9), min_size=1, max_size=8), st.integers(0, 4)),
        min_size=1,
        max_size=10,
    ).filter(lambda pairs: any(count for _, count in pairs))
)
def test_pooled_median_is_that_of_the_repeated_blocks(
    pairs: list[tuple[list[int], int]],
) -> None:
    counts = np.array([count for _, count in pairs])
    repeated = [ns for block, count in pairs for ns in block * count]
    assert _Pool([block for block, _ in pairs]).median(counts) == nearest_rank(repeated, 50)


def test_interval_is_that_of_a_plain_bootstrap() -> None:
    baseline, subject = _noisy_blocks(2e6, 5), _noisy_blocks(1.5e6, 6)
    found = speed_ratio(baseline, subject, confidence=0.9, seed=3, resamples=400)
    draws = np.random.default_rng(3).integers(30, size=(400, 30))
    ratios = [
        nearest_rank([x for i in draw for x in baseline[i]], 50)
        / nearest_rank([x for i in draw for x in subject[i]], 50)
        for draw in draws
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, [0.05, 0.95])))
    assert found.low < found.ratio < found.high


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        # The machine's state moves both subjects of a round together.
        weather = rng.normal(1.0, 0.1, 30)
        first, second = (
            [(scale * w * rng.lognormal(0, 0.1, 15)).astype(int).tolist() for w in weather]
            for scale in (3e6, 2e6)
        )
        found = speed_ratio(first, second, confidence=0.9, seed=seed, resamples=300)
        hits += found.low <= 1.5 <= found.high
    # Pairing leaves less noise than the clusters have, so the interval may be too wide, not short.
    assert hits >= 84


def test_pairing_removes_what_both_subjects_share() -> None:
    weather = np.repeat([1.0, 2.0, 4.0], 10)
    baseline = [[int(2000 * w)] * 10 for w in weather]
    subject = [[int(1000 * w)] * 10 for w in weather]
    found = speed_ratio(baseline, subject, confidence=0.95, seed=0)
    assert (found.low, found.high) == (2.0, 2.0)


def test_same_seed_same_interval() -> None:
    blocks = _noisy_blocks(2e6, 5), _noisy_blocks(1e6, 6)
    first = speed_ratio(*blocks, confidence=0.95, seed=1)
    assert first == speed_ratio(*blocks, confidence=0.95, seed=1)
    assert first != speed_ratio(*blocks, confidence=0.95, seed=2)


@pytest.mark.parametrize(("baseline", "subject"), [([], []), ([[1]], [[1], [2]])])
def test_blocks_must_pair_up(baseline: Blocks, subject: Blocks) -> None:
    with pytest.raises(ValueError, match="do not pair up"):
        speed_ratio(baseline, subject, confidence=0.95, seed=0)


def test_an_injected_slow_subject_is_found_with_the_real_clock() -> None:
    def spin(nanoseconds: int) -> None:
        end = time.process_time_ns() + nanoseconds
        while time.process_time_ns() < end:
            pass

    # Made in code, where the floor of three seconds is not enforced.
    recipe = BenchRecipe(seconds=0.4, warmup_seconds=0.05)
    subjects = [Subject("fp32", lambda: spin(2_000_000)), Subject("int8", lambda: spin(500_000))]
    fp32, int8 = interleave(subjects, recipe)
    assert speed_ratio(fp32.blocks, int8.blocks, confidence=0.95, seed=0).verdict == "faster"
    assert speed_ratio(int8.blocks, fp32.blocks, confidence=0.95, seed=0).verdict == "slower"
