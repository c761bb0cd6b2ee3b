"""Training batches of native uint8 images: order, random crop and flip from (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from baseline.images import ImageSet


@dataclass(frozen=True)
class EpochPlan:
    """Everything random about one epoch.

    Attributes:
        batches: indices of each batch's images, int (B,).
        shifts: int (N, 2), row and column of each image's crop in its padded image.
        flips: bool (N,), which images are mirrored left to right.
    """

    batches: tuple[NDArray[np.intp], ...]
    shifts: NDArray[np.int64]
    flips: NDArray[np.bool_]


def crop_padding(side: int) -> int:
    """Return the padding of the random crop: 4 pixels at 32, in proportion elsewhere."""
    return max(1, side // 8)


def batch_count(images: int, batch_size: int) -> int:
    """Return how many batches an epoch has: all of about one size, none of a single image.

    BatchNorm cannot train on one value a channel, and a short last batch would weigh as much as a
    whole one; so the images are spread evenly and none is left out.

    Args:
        images: at least 2.
        batch_size: the largest batch (exceeded by one only where the rest would be one image).
    """
    return max(1, min(-(-images // batch_size), images // 2))


def plan_epoch(
    images: int, side: int, batch_size: int, *, augment: bool, seed: int, epoch: int
) -> EpochPlan:
    """Draw an epoch's order, crops and flips; a pure function of its arguments.

    Args:
        images: size of the training set, at least 2.
        side: side of the native images in pixels.
        batch_size: see ``batch_count``.
        augment: crop and flip; otherwise every crop is the image itself.
        seed: of the training.
        epoch: counted from 0.
    """
    rng = np.random.default_rng((seed, epoch))
    padding = crop_padding(side)
    batches = np.array_split(rng.permutation(images), batch_count(images, batch_size))
    shifts = rng.integers(0, 2 * padding + 1, size=(images, 2))
    flips = rng.random(images) < 0.5
    if not augment:
        shifts, flips = np.full_like(shifts, padding), np.zeros_like(flips)
    return EpochPlan(batches=tuple(batches), shifts=shifts, flips=flips)


def batches_of(
    images: ImageSet, plan: EpochPlan
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield the planned batches: images uint8 (B, 3, H, H) and labels int64 (B,).

    Args:
        images: the training set, uint8 (N, H, H, 3).
        plan: of as many images.
    """
    side = images.images.shape[1]
    padding = crop_padding(side)
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    for index in plan.batches:
        windows = sliding_window_view(
            np.pad(images.images[index], margins), (side, side), axis=(1, 2)
        )
        shifts = plan.shifts[index]
        batch = windows[np.arange(len(index)), shifts[:, 0], shifts[:, 1]]
        flips = plan.flips[index]
        batch[flips] = batch[flips, :, :, ::-1]
        yield batch, images.labels[index]
