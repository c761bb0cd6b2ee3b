"""The learning rate as a function of the step alone."""

from __future__ import annotations

import math

#: The rate starts at this share of its peak, as torch's OneCycleLR does (div_factor 25).
_START_SHARE = 1 / 25


def one_cycle(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Return the learning rate of a step: a cosine up to the peak, then a cosine down to zero.

    After Smith and Topin, "Super-convergence" (2018), with cosine instead of linear ramps.

    Args:
        step: 0 to ``steps`` - 1.
        steps: all steps of the training, at least 1.
        peak: the highest rate.
        warmup_share: share of the steps that the way up takes, 0 to 1.
    """
    warmup = warmup_share * steps
    if step < warmup:
        return peak * (_START_SHARE + (1 - _START_SHARE) * _rise(step / warmup))
    # The +1 keeps the last step's rate above zero, so that no step is wasted.
    return peak * (1 - _rise((step - warmup) / (steps - warmup + 1)))


def _rise(progress: float) -> float:
    return (1 - math.cos(math.pi * progress)) / 2
