"""Top-1 through the server half: shares, agreement, and the drop with its interval. Numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from records.parity import Accuracy, Interval
from records.recipe import CheckRecipe

KEPT_DISAGREEING = 16

Classes = npt.NDArray[np.int64]
Hits = npt.NDArray[np.bool_]


def paired_drop(
    reference: Hits, other: Hits, *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return how many points of top-1 ``other`` loses, with a percentile bootstrap interval.

    Images are resampled in pairs (Efron and Tibshirani 1993, section 13.3). A pair's difference
    is −1, 0 or 1, so a resample is fully described by how many of each it drew: that is one draw
    of a multinomial with the observed shares, which is exact and needs no resampled indices.

    Args:
        reference: bool (N,), right or wrong of the FP32 edge per image.
        other: bool (N,), of the artifact on the same images.
        resamples: bootstrap resamples, ≥ 100.
        confidence: of the two-sided interval, between 0.5 and 1.
        seed: of the resampling.

    Returns:
        The drop in percentage points (negative: a gain) and its interval.

    Raises:
        ValueError: the arrays differ in length or are empty.
    """
    if reference.shape != other.shape or reference.ndim != 1 or reference.size == 0:
        raise ValueError("a paired drop needs the same images, at least one, on both sides")
    count = reference.size
    lost = int(np.count_nonzero(reference & ~other))
    gained = int(np.count_nonzero(other & ~reference))
    shares = np.array([lost, gained, count - lost - gained]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    drops = 100.0 * (draws[:, 0] - draws[:, 1]) / count
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drops, [tail, 1.0 - tail])
    return Interval(
        estimate=100.0 * (lost - gained) / count,
        low=float(low),
        high=float(high),
        confidence=confidence,
    )


def accuracy_of(
    top1: Classes,
    labels: Classes,
    *,
    fp32: Classes | None,
    eager: Classes | None,
    recipe: CheckRecipe,
) -> Accuracy:
    """Return top-1 of one artifact, its agreement with eager INT8, and its drop against FP32.

    Args:
        top1: int64 (N,), classes predicted from this artifact's boundary.
        labels: int64 (N,), the true classes.
        fp32: int64 (N,), classes predicted from the FP32 edge; None for the FP32 edge itself.
        eager: int64 (N,), classes predicted from eager INT8; None where no agreement is due.
        recipe: resamples, confidence and seed of the interval.
    """
    hits = top1 == labels
    drop = None
    if fp32 is not None:
        drop = paired_drop(
            fp32 == labels,
            hits,
            resamples=recipe.bootstrap_resamples,
            confidence=recipe.confidence,
            seed=recipe.seed,
        )
    disagreeing = np.flatnonzero(top1 != eager) if eager is not None else np.empty(0, np.int64)
    return Accuracy(
        top1=float(np.mean(hits)),
        agreement=None if eager is None else 1.0 - len(disagreeing) / len(top1),
        disagreeing=tuple(disagreeing[:KEPT_DISAGREEING].tolist()),
        drop_points=drop,
    )
