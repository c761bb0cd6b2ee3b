"""The mean of every attacker level over all victims, also where a level attacked some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attack.base import Outcome
from records.attack import Level

Outcomes = tuple[Outcome, ...]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Attacker:
    """A level, with its training pairs when it is budgeted."""

    level: Level
    queries: int | None = None


def attackers_of(outcomes: Outcomes) -> tuple[Attacker, ...]:
    """Return what attacked, each once, in the order of the outcomes."""
    return tuple(dict.fromkeys(Attacker(o.level, o.queries) for o in outcomes))


def by(outcomes: Outcomes, attacker: Attacker) -> Outcomes:
    """Return an attacker's outcomes, one a seed."""
    return tuple(o for o in outcomes if Attacker(o.level, o.queries) == attacker)


def values_of(outcomes: Outcomes, attacker: Attacker) -> Values:
    """Return dB, float64 (seeds, N), whose mean is the attacker's mean over all N victims.

    Per-image PSNR where all victims were attacked. A2 attacks the first M ones: its values are
    A1's, plus N/M times its gain over A1 on those M. Their mean is A1's mean over all victims plus
    the mean gain on the same images, which does not mistake easy victims for a strong attack; and a
    bootstrap that resamples the first M and the others apart resamples exactly that estimate.
    """
    own = np.stack([o.scores.psnr for o in by(outcomes, attacker)])
    count = max(len(o.scores.psnr) for o in outcomes)
    attacked = own.shape[1]
    if attacked == count:
        return own
    values = np.stack([o.scores.psnr for o in by(outcomes, Attacker("A1"))])
    values[:, :attacked] += (count / attacked) * (own - values[:, :attacked])
    return values


def fewest_victims(outcomes: Outcomes) -> int:
    """Return how many victims every attacker attacked: the first stratum of a bootstrap."""
    return min(len(o.scores.psnr) for o in outcomes)


def mean_db(outcomes: Outcomes, attacker: Attacker) -> float:
    """Return an attacker's mean per-image PSNR in dB over all victims and seeds."""
    return float(values_of(outcomes, attacker).mean())


def strongest(outcomes: Outcomes) -> Attacker:
    """Return the attacker with the highest mean, the first of equals."""
    return max(attackers_of(outcomes), key=lambda attacker: mean_db(outcomes, attacker))
