"""Top-1 accuracy of a network on an image set, with its interval."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import nn

from baseline.images import ImageSet
from baseline.preprocessing import preprocess
from records.errors import DataError
from records.manifest import Preprocessing
from records.training import Accuracy

_BATCH = 250


def evaluate(
    model: nn.Module,
    images: ImageSet,
    spec: Preprocessing,
    *,
    device: torch.device | None = None,
    confidence: float = 0.95,
) -> Accuracy:
    """Count the images whose largest logit is their label's; ties go to the lower class.

    Args:
        model: float32 (N, 3, S, S) → logits (N, K); left in eval mode.
        images: native images and labels.
        spec: the preprocessing, the same numpy code that deployment uses.
        device: where the model is; None for the CPU.
        confidence: of the two-sided interval.

    Raises:
        DataError: the set is empty.
    """
    model.eval()
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            batch = torch.from_numpy(preprocess(images.images[part], spec))
            chosen = model(batch.to(device)).argmax(dim=1).cpu()
            correct += int((chosen == torch.from_numpy(images.labels[part])).sum())
    return accuracy(correct, len(images), confidence=confidence)


def accuracy(correct: int, count: int, *, confidence: float = 0.95) -> Accuracy:
    """Return a share of correct answers with its Wilson score interval.

    With p = correct / count, n = count and z the normal quantile of (1 + confidence) / 2, the
    bounds are (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n) (Wilson, 1927).

    Args:
        correct: 0 to ``count``.
        count: at least 1.
        confidence: of the two-sided interval, between 0.5 and 1.

    Raises:
        DataError: nothing was counted.
    """
    if count < 1:
        raise DataError("an accuracy over no images is asked for")
    share = correct / count
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At 0 and at ``count`` a bound is exactly 0 or 1; rounding must not leave the range.
    return Accuracy(
        correct=correct,
        count=count,
        top1=share,
        low=0.0 if correct == 0 else (centre - half) / scale,
        high=1.0 if correct == count else (centre + half) / scale,
        confidence=confidence,
    )
