"""Training batches of native uint8 images: order, crop, flip, CutMix from (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from baseline.images import ImageSet


@dataclass(frozen=True)
class Box:
    """Pixels of rows ``top`` to ``bottom`` and columns ``left`` to ``right``, ends open."""

    top: int
    bottom: int
    left: int
    right: int

    def share(self, side: int) -> float:
        """Return the part of a ``side`` × ``side`` image that the box covers, 0 to 1."""
        return (self.bottom - self.top) * (self.right - self.left) / side**2


@dataclass(frozen=True)
class EpochPlan:
    """Everything random about one epoch.

    Attributes:
        batches: indices of each batch's images, int (B,).
        shifts: int (N, 2), row and column of each image's crop in its padded image.
        flips: bool (N,), which images are mirrored left to right.
        boxes: of each batch, what each image gets from the next one of its batch; None: nothing.
    """

    batches: tuple[NDArray[np.intp], ...]
    shifts: NDArray[np.int64]
    flips: NDArray[np.bool_]
    boxes: tuple[Box | None, ...]


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Attributes:
        images: uint8 (B, 3, H, H).
        labels: int64 (B,).
        pasted_labels: int64 (B,), of the images that the pasted boxes came from.
        pasted_share: part of each image that was pasted, 0 to 1, and so the weight of its label.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    pasted_labels: NDArray[np.int64]
    pasted_share: float


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
    images: int,
    side: int,
    batch_size: int,
    *,
    augment: bool,
    cutmix: float = 0.0,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Draw an epoch's order, crops, flips and boxes; a pure function of its arguments.

    Args:
        images: size of the training set, at least 2.
        side: side of the native images in pixels.
        batch_size: see ``batch_count``.
        augment: crop and flip; otherwise every crop is the image itself.
        cutmix: share of the batches in which a box of the next image is pasted into each.
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
    boxes = tuple(_box(rng, side) if rng.random() < cutmix else None for _ in batches)
    return EpochPlan(batches=tuple(batches), shifts=shifts, flips=flips, boxes=boxes)


def _box(rng: np.random.Generator, side: int) -> Box:
    """Draw a box whose area is a uniform share of the image before it is cut at the border.

    Yun et al., "CutMix" (ICCV 2019), with alpha = 1.
    """
    half = side * np.sqrt(rng.random()) / 2
    row, column = rng.integers(0, side, size=2)
    top, left = (int(max(0, round(c - half))) for c in (row, column))
    bottom, right = (int(min(side, round(c + half))) for c in (row, column))
    return Box(top=top, bottom=bottom, left=left, right=right)


def batches_of(images: ImageSet, plan: EpochPlan) -> Iterator[Batch]:
    """Yield the planned batches.

    Args:
        images: the training set, uint8 (N, H, H, 3).
        plan: of as many images.
    """
    side = images.images.shape[1]
    padding = crop_padding(side)
    margins = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    for index, box in zip(plan.batches, plan.boxes, strict=True):
        windows = sliding_window_view(
            np.pad(images.images[index], margins), (side, side), axis=(1, 2)
        )
        shifts = plan.shifts[index]
        batch = windows[np.arange(len(index)), shifts[:, 0], shifts[:, 1]]
        flips = plan.flips[index]
        batch[flips] = batch[flips, :, :, ::-1]
        labels = images.labels[index]
        share = 0.0
        if box is not None:
            rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
            batch[:, :, rows, columns] = np.roll(batch, -1, axis=0)[:, :, rows, columns]
            share = box.share(side)
        yield Batch(batch, labels, np.roll(labels, -1), share)
