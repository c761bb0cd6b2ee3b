"""How much faster one subject is than another, with an interval, and what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from records.bench import SpeedVerdict

#: A ratio nearer to 1 than this is not called a speed-up or a slow-down: where a session's
#: memory happens to lie moves its median by a few per cent, and one process cannot average that.
SMALLEST_EFFECT = 0.05

RESAMPLES = 2000

Blocks = Sequence[Sequence[int]]


@dataclass(frozen=True)
class SpeedRatio:
    """Median(baseline) / median(subject), and the bounds of its two-sided interval."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> SpeedVerdict:
        """``faster`` or ``slower`` when the whole interval lies beyond the smallest effect."""
        if self.low > 1 + SMALLEST_EFFECT:
            return "faster"
        if self.high < 1 / (1 + SMALLEST_EFFECT):
            return "slower"
        return "no speed-up shown"


def speed_ratio(
    baseline: Blocks, subject: Blocks, *, confidence: float, seed: int, resamples: int = RESAMPLES
) -> SpeedRatio:
    """Return the ratio of medians with a paired block bootstrap interval.

    Rounds are drawn with replacement, and both blocks of a drawn round go in together: samples of
    one block depend on each other, and both blocks of a round met the same state of the machine
    (percentile bootstrap over clusters: Efron & Tibshirani, "An Introduction to the Bootstrap",
    1993, chapters 8 and 13).

    Args:
        baseline: nanoseconds, one block a round; blocks may differ in length.
        subject: the same rounds of the other subject.
        confidence: of the two-sided interval, in (0, 1).
        seed: of the resampling.
        resamples: how many times rounds are drawn.

    Raises:
        ValueError: the two have different numbers of blocks, or none.
    """
    if not baseline or len(baseline) != len(subject):
        raise ValueError(f"{len(baseline)} and {len(subject)} blocks do not pair up")
    rounds = len(baseline)
    draws = np.random.default_rng(seed).integers(rounds, size=(resamples, rounds))
    counts = np.stack([np.bincount(draw, minlength=rounds) for draw in draws])
    above, below = _Pool(baseline), _Pool(subject)
    ratios = np.array([above.median(count) / below.median(count) for count in counts])
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    once = np.ones(rounds, dtype=np.int64)
    return SpeedRatio(above.median(once) / below.median(once), float(low), float(high))


class _Pool:
    """All samples of one subject, sorted once, with the round that each came from."""

    def __init__(self, blocks: Blocks) -> None:
        values = np.concatenate([np.asarray(block, dtype=np.int64) for block in blocks])
        rounds = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
        order = np.argsort(values, kind="stable")
        self._values = values[order]
        self._rounds = rounds[order]

    def median(self, counts: npt.NDArray[np.int64]) -> float:
        """Return the nearest-rank median when round i is taken ``counts[i]`` times."""
        reached = np.cumsum(counts[self._rounds])
        index = int(np.searchsorted(2 * reached, reached[-1]))
        return float(self._values[index])
