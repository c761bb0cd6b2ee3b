"""How a boundary of any shape lies over an image: a grid of vectors, each over a block of pixels.

A decoder works on a grid that divides the image. C×h×w boundaries are brought to it losslessly
where that is possible: unchanged when h divides the image's side H, folded (space to depth) when h
is a multiple of H, and otherwise resized bilinearly to the next larger size for which one of both
holds, which loses nothing but is no longer the tensor that was sent. A vector is a 1×1 grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate

_TRUNK_SHARE = 4
_TRUNK_MOST = 16


@dataclass(frozen=True)
class Grid:
    """A square grid over an image.

    Attributes:
        channels: features at each of ``side`` × ``side`` positions.
        side: positions along one axis; divides ``image_side``.
        resized: side that the boundary is resized to first.
        fold: how many positions of the resized boundary along one axis make one of the grid.
        image_side: pixels along one axis.
    """

    channels: int
    side: int
    resized: int
    fold: int
    image_side: int

    @property
    def block(self) -> int:
        """Pixels along one axis that belong to one position."""
        return self.image_side // self.side


def grid_of(boundary: tuple[int, ...], image_side: int) -> Grid:
    """Return the grid that a boundary of shape (C, h, w), (C,) or other lies on.

    Anything but three axes with h = w is taken as one vector.

    Args:
        boundary: shape without the batch axis.
        image_side: native side of the images in pixels.
    """
    if len(boundary) != 3 or boundary[1] != boundary[2]:
        return Grid(math.prod(boundary), 1, 1, 1, image_side)
    channels, side, _ = boundary
    if side <= image_side:
        resized = smallest_divisor_from(image_side, side)
        return Grid(channels, resized, resized, 1, image_side)
    fold = math.ceil(side / image_side)
    return Grid(channels * fold**2, image_side, fold * image_side, fold, image_side)


def trunk_side(image_side: int) -> int:
    """Return the side of the grid that the convolutions work on: a quarter of the image, ≤ 16.

    There the 3×3 kernels see far at a sixteenth of the cost of working on pixels.
    """
    return smallest_divisor_from(image_side, min(_TRUNK_MOST, max(1, image_side // _TRUNK_SHARE)))


def smallest_divisor_from(number: int, least: int) -> int:
    """Return the smallest divisor of ``number`` that is at least ``least`` (1 ≤ least ≤ number)."""
    return next(d for d in range(least, number + 1) if number % d == 0)


def to_grid(features: Tensor, grid: Grid) -> Tensor:
    """Bring boundary features (N, *boundary) onto their grid, (N, channels, side, side)."""
    if grid.side == 1 and grid.fold == 1:
        return features.reshape(len(features), -1, 1, 1)
    if features.shape[2] != grid.resized:
        size = (grid.resized, grid.resized)
        features = interpolate(features, size=size, mode="bilinear", align_corners=False)
    return fold_blocks(features, grid.fold)


def fold_blocks(x: Tensor, block: int) -> Tensor:
    """Space to depth: (N, C, g·b, g·b) → (N, C·b·b, g, g), channels ordered (c, row, column)."""
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 1, 3, 5, 2, 4)
    return y.reshape(n, c * block**2, h // block, w // block)


def unfold_blocks(x: Tensor, block: int) -> Tensor:
    """Depth to space, the inverse of `fold_blocks`: (N, C·b·b, g, g) → (N, C, g·b, g·b)."""
    n, c, h, w = x.shape
    y = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // block**2, h * block, w * block)


def move_between(x: Tensor, side: int) -> Tensor:
    """Bring (N, C, g, g) to another grid: fold when it divides g, else resize bilinearly."""
    if x.shape[2] == side:
        return x
    if x.shape[2] > side and x.shape[2] % side == 0:
        return fold_blocks(x, x.shape[2] // side)
    return interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
