from __future__ import annotations

import gc
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.timing import ROUNDS, SETTLE_NS, Measured, Subject, interleave, nearest_rank
from records.recipe import BenchRecipe


class FakeClock:
    """A clock that only the subjects move: the timing logic is under test, not the machine."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def subject(self, name: str, nanoseconds: int, log: list[str] | None = None) -> Subject:
        def run() -> None:
            self.now += nanoseconds
            if log is not None:
                log.append(name)

        return Subject(name, run)


samples = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


@given(samples, st.integers(1, 100))
def test_nearest_rank_by_its_definition(values: list[int], percent: int) -> None:
    enough = [
        v
        for v in sorted(values)
        if Fraction(sum(w <= v for w in values), len(values)) >= Fraction(percent, 100)
    ]
    assert nearest_rank(values, percent) == enough[0]


@given(samples, st.sampled_from([25, 50, 75, 100]))
def test_nearest_rank_is_numpys_inverted_cdf(values: list[int], percent: int) -> None:
    # Shares that binary fractions hold exactly: numpy's rank has rounding errors at others.
    expected = np.quantile(values, percent / 100, method="inverted_cdf")
    assert nearest_rank(values, percent) == expected


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
@pytest.mark.parametrize("size", [100, 101, 257, 1000])
def test_reported_percentiles_are_numpys_inverted_cdf(percent: int, size: int) -> None:
    values = np.random.default_rng(size).integers(0, 10**9, size)
    expected = np.quantile(values, percent / 100, method="inverted_cdf")
    assert nearest_rank(values, percent) == expected


def test_the_floors_are_reached_by_both() -> None:
    clock = FakeClock()
    subjects = [clock.subject("slow", 50_000_000), clock.subject("fast", 20_000)]
    slow, fast = interleave(subjects, BenchRecipe(), clock=clock)
    assert slow.samples.size >= 100
    assert slow.samples.sum() >= 3e9
    assert fast.samples.sum() >= 3e9
    assert len(slow.blocks) == len(fast.blocks) == ROUNDS
    assert set(slow.samples) == {50_000_000}


def test_rounds_are_added_until_the_floors_are_reached() -> None:
    clock = FakeClock()
    calls = 0

    def faster_after_warm_up() -> None:
        nonlocal calls
        calls += 1
        clock.now += 10_000_000 if calls <= 60 else 1_000_000

    (measured,) = interleave([Subject("x", faster_after_warm_up)], BenchRecipe(), clock=clock)
    assert len(measured.blocks) > ROUNDS
    assert measured.samples.sum() >= 3e9


def test_a_block_is_cut_when_the_machine_becomes_a_thousand_times_slower() -> None:
    clock = FakeClock()
    calls = 0

    def slow_after_warm_up() -> None:
        nonlocal calls
        calls += 1
        clock.now += 100_000 if calls <= 5000 else 100_000_000

    (measured,) = interleave([Subject("x", slow_after_warm_up)], BenchRecipe(), clock=clock)
    share = 3.0 / ROUNDS
    for block in measured.blocks:
        assert len(block) >= 100 / ROUNDS
        assert sum(block[:-1]) / 1e9 <= max(3 * share, 4 * 0.1)
    # Without the cut each of the 30 blocks would last 1,000 runs of 0.1 s.
    assert measured.samples.sum() / 1e9 < 20


@pytest.mark.parametrize(("nanoseconds", "expected"), [(1_000_000, 500), (200_000_000, 10)])
def test_warm_up_has_both_floors(nanoseconds: int, expected: int) -> None:
    clock = FakeClock()
    log: list[str] = []
    (measured,) = interleave([clock.subject("x", nanoseconds, log)], BenchRecipe(), clock=clock)
    settling = ROUNDS * max(1, math.ceil(SETTLE_NS / nanoseconds))
    assert len(log) - measured.samples.size - settling == expected


def test_each_round_has_each_subject_once_in_a_seeded_order() -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        clock = FakeClock()
        log: list[str] = []
        subjects = [clock.subject(name, 10_000_000, log) for name in "abc"]
        interleave(subjects, BenchRecipe(seed=seed), clock=clock)
        blocks = [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]
        # Two blocks of one subject may touch across a round's end: count by runs instead.
        measured = log[3 * 50 :]
        per_block = len(measured) // (3 * ROUNDS)
        assert blocks[:3] == ["a", "b", "c"]
        starts = measured[::per_block]
        return [tuple(starts[i : i + 3]) for i in range(0, len(starts), 3)]

    first = orders(0)
    assert all(sorted(order) == ["a", "b", "c"] for order in first)
    assert len(set(first)) > 1
    assert first == orders(0)
    assert first != orders(1)


def test_progress_counts_rounds() -> None:
    clock = FakeClock()
    calls: list[tuple[str, int, int]] = []
    interleave(
        [clock.subject("x", 10_000_000)],
        BenchRecipe(),
        clock=clock,
        task="t",
        progress=lambda task, done, total: calls.append((task, done, total)),
    )
    assert calls[-1] == ("t", ROUNDS, ROUNDS)


def test_garbage_collection_is_off_inside_blocks_and_on_again() -> None:
    clock = FakeClock()
    seen: list[bool] = []

    def run() -> None:
        clock.now += 100_000_000
        seen.append(gc.isenabled())

    interleave([Subject("x", run)], BenchRecipe(), clock=clock)
    assert not any(seen[10:])
    assert gc.isenabled()


def test_samples_join_the_blocks_in_order() -> None:
    measured = Measured("x", ((3, 1), (2,)), 0.0, 0.0)
    assert measured.samples.tolist() == [3, 1, 2]
