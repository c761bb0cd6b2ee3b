"""Interleaved timing: every subject in every round, in a seeded random order, block by block.

Interleaving spreads a slow minute of the machine over all subjects alike, so that a ratio of two
of them is not a ratio of two minutes.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from records.progress import Progress, silent

if TYPE_CHECKING:
    from records.recipe import BenchRecipe

#: Rounds planned; more are added until every subject has its floor of runs and seconds.
ROUNDS = 30

#: Unrecorded runs that open a block: they meet the caches, and the spinning worker threads, that
#: the subject before left behind. At least one run and at least this time.
SETTLE_NS = 2_000_000

#: A block that lasts this many times as long as planned is cut: on a machine that is suddenly busy
#: a few microseconds can become half a second, and the run, INVALID anyway, would take an hour.
MAX_BLOCK_STRETCH = 3

Clock = Callable[[], int]


@dataclass(frozen=True)
class Subject:
    """What is timed: ``run`` is called with nothing, and its result is dropped."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """One subject's samples in nanoseconds, block by block in the order of the rounds.

    ``cpu_seconds`` and ``wall_seconds``: this process's CPU time and the clock's over the blocks.
    """

    name: str
    blocks: tuple[tuple[int, ...], ...]
    cpu_seconds: float
    wall_seconds: float

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """All samples in nanoseconds, shape (n,)."""
        return np.array([ns for block in self.blocks for ns in block], dtype=np.int64)


@dataclass
class _Tally:
    subject: Subject
    block_runs: int
    least_runs: int
    most_ns: float
    blocks: list[tuple[int, ...]]
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    runs: int = 0
    total_ns: int = 0

    def lacks(self, recipe: BenchRecipe) -> bool:
        return self.runs < recipe.runs or self.total_ns < recipe.seconds * 1e9


def interleave(
    subjects: Sequence[Subject],
    recipe: BenchRecipe,
    *,
    progress: Progress = silent,
    task: str = "bench",
    clock: Clock = time.perf_counter_ns,
) -> tuple[Measured, ...]:
    """Time every subject, interleaved in one run.

    Each subject is warmed up for ≥ ``warmup_runs`` runs and ≥ ``warmup_seconds``. Then rounds
    follow: in each, every subject runs one block, in an order drawn from ``recipe.seed``. A block
    is as many runs as fill its share of ``seconds`` at warm speed; it is cut at three times that
    share, but not below its share of ``runs``. It ends after ≥ 30 rounds, when each subject has
    ≥ ``runs`` samples that sum to ≥ ``seconds``.
    Python's garbage collector is off inside blocks.

    Args:
        subjects: at least one; names differ.
        recipe: floors and seed.
        progress: told about each round.
        task: the name given to ``progress``.
        clock: nanoseconds; another one in tests.

    Returns:
        One ``Measured`` a subject, in the order given, all with the same number of blocks.
    """
    tallies = [_warmed_up(subject, recipe, clock) for subject in subjects]
    order = np.random.default_rng(recipe.seed)
    done = 0
    while done < ROUNDS or any(tally.lacks(recipe) for tally in tallies):
        for index in order.permutation(len(tallies)):
            _block(tallies[index], clock)
        done += 1
        progress(task, min(done, ROUNDS), ROUNDS)
    return tuple(
        Measured(t.subject.name, tuple(t.blocks), t.cpu_seconds, t.wall_seconds) for t in tallies
    )


def nearest_rank(samples: npt.ArrayLike, percent: int) -> int:
    """Return the nearest-rank percentile: the smallest sample that ≥ percent % do not exceed.

    Args:
        samples: at least one integer, in any order.
        percent: 1 … 100; an integer, so that the rank ⌈percent·n/100⌉ has no rounding error.
    """
    values = np.asarray(samples, dtype=np.int64).reshape(-1)
    rank = max(1, -(-percent * values.size // 100))
    return int(np.partition(values, rank - 1)[rank - 1])


def _warmed_up(subject: Subject, recipe: BenchRecipe, clock: Clock) -> _Tally:
    samples: list[int] = []
    start = clock()
    while len(samples) < recipe.warmup_runs or clock() - start < recipe.warmup_seconds * 1e9:
        before = clock()
        subject.run()
        samples.append(clock() - before)
    # The later half is warm; a block lasts seconds / ROUNDS at that speed.
    warm = max(1, nearest_rank(samples[len(samples) // 2 :], 50))
    share_ns = recipe.seconds * 1e9 / ROUNDS
    least = math.ceil(recipe.runs / ROUNDS)
    runs = max(least, math.ceil(share_ns / warm))
    return _Tally(subject, runs, least, MAX_BLOCK_STRETCH * max(share_ns, runs * warm), [])


def _block(tally: _Tally, clock: Clock) -> None:
    run = tally.subject.run
    with _no_collection():
        start = clock()
        run()
        while clock() - start < SETTLE_NS:
            run()
        samples: list[int] = []
        cpu, wall = time.process_time(), time.perf_counter()
        end = clock() + tally.most_ns
        while len(samples) < tally.block_runs:
            before = clock()
            if before > end and len(samples) >= tally.least_runs:
                break
            run()
            samples.append(clock() - before)
        tally.cpu_seconds += time.process_time() - cpu
        tally.wall_seconds += time.perf_counter() - wall
    tally.blocks.append(tuple(samples))
    tally.runs += len(samples)
    tally.total_ns += sum(samples)


@contextmanager
def _no_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
