"""The part of a decoder that has a closed form: ridge regression from features to pixel blocks.

It costs seconds, is exact for a pass-through edge, and leaves to the convolutions only what is not
linear. One matrix serves every position of the grid (``kernel`` × ``kernel`` neighbours), or a
dense one maps all features to all pixels (kernel 0) where the grid is small.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, unfold

from attack.geometry import Grid, fold_blocks, unfold_blocks

#: Ridge strengths that are tried, relative to the mean eigenvalue of the covariance.
STRENGTHS = (1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MOST_COLUMNS = 2048
_MOST_NEIGHBOUR_COLUMNS = 1100
_MOST_ROWS = 150_000
_ROWS_AT_ONCE = 16_384
_DENSE_SIDE = 4


class LinearPath(nn.Module):
    """Affine map from grid features to an image.

    Attributes:
        weight: float32 (D, 3·b²) for a kernel, (D, 3·H²) for a dense map, (0, 3·H²) for a constant.
        bias: float32 (3·b²,) or (3·H²,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, grid: Grid, kernel: int | None, weight: Tensor, bias: Tensor) -> None:
        """Keep the map; ``kernel`` odd, 0 for dense, None for a constant image."""
        super().__init__()
        self.grid = grid
        self.kernel = kernel
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, side, side) float32 to images (N, 3, H, W)."""
        side = self.grid.image_side
        if self.kernel is None:
            return self.bias.reshape(1, 3, side, side).expand(len(x), -1, -1, -1)
        if self.kernel == 0:
            return rows_to_images(x.flatten(1) @ self.weight + self.bias, self.grid, 0)
        # The columns of `columns_of`, never written out: a convolution of the same weights.
        kernel = self.kernel
        filters = self.weight.T.reshape(-1, self.grid.channels, kernel, kernel)
        blocks = conv2d(_repeat_border(x, kernel), filters, self.bias)
        return unfold_blocks(blocks, self.grid.block)


def kernels_for(grid: Grid) -> tuple[int, ...]:
    """Return the kernels worth solving for: the widest that is cheap, and dense on small grids."""
    if grid.side == 1:
        return (0,) if grid.channels <= _MOST_COLUMNS else ()
    wide = [k for k in (5, 3) if grid.channels * k**2 <= _MOST_NEIGHBOUR_COLUMNS]
    single = [1] if grid.channels <= _MOST_COLUMNS else []
    small = grid.side <= _DENSE_SIDE and grid.channels * grid.side**2 <= _MOST_COLUMNS
    dense = [0] if small else []
    return (*(wide or single)[:1], *dense)


def columns_of(x: Tensor, kernel: int) -> Tensor:
    """Return the regressors: (N, C, g, g) → (N·g², C·k²), or (N, C·g²) for a dense map.

    Borders repeat their outermost value, as a bilinear resize does, so that a resized image
    is inverted exactly at the borders too.
    """
    if kernel == 0:
        return x.flatten(1)
    side = x.shape[2]
    patches = unfold(_repeat_border(x, kernel), kernel)
    return patches.transpose(1, 2).reshape(len(x) * side**2, -1)


def _repeat_border(x: Tensor, kernel: int) -> Tensor:
    return pad(x, (kernel // 2,) * 4, mode="replicate") if kernel > 1 else x


def rows_to_images(rows: Tensor, grid: Grid, kernel: int) -> Tensor:
    """Return predicted rows as images (N, 3, H, W); the inverse of `images_to_rows`."""
    if kernel == 0:
        return rows.reshape(-1, 3, grid.image_side, grid.image_side)
    blocks = rows.reshape(-1, grid.side**2, rows.shape[1]).transpose(1, 2)
    return unfold_blocks(blocks.reshape(-1, rows.shape[1], grid.side, grid.side), grid.block)


def images_to_rows(images: Tensor, grid: Grid, kernel: int) -> Tensor:
    """Return images (N, 3, H, W) as regression targets: one row a position, or one an image."""
    if kernel == 0:
        return images.flatten(1)
    blocks = fold_blocks(images, grid.block).flatten(2)
    return blocks.transpose(1, 2).reshape(len(images) * grid.side**2, -1)


def constant_path(grid: Grid, images: Tensor) -> LinearPath:
    """Return the path that always answers with the mean of images (N, 3, H, W)."""
    mean = images.mean(0, dtype=torch.float64).float().flatten()
    return LinearPath(grid, None, torch.zeros(0, len(mean)), mean)


def ridge_paths(features: Tensor, images: Tensor, grid: Grid, kernel: int) -> Iterator[LinearPath]:
    """Yield the ridge solution of each of ``STRENGTHS``, from one eigendecomposition.

    Minimises ‖(X − x̄)W − (Y − ȳ)‖² / rows + λ·(tr Σ / D)·‖W‖² (Hoerl and Kennard 1970). At most
    150,000 rows are used: far more than unknowns.

    Args:
        features: float32 (N, channels, side, side), standardised, on the grid.
        images: float32 (N, 3, H, W) in [0, 1].
        grid: where the features lie.
        kernel: odd, or 0 for a dense map.
    """
    positions = 1 if kernel == 0 else grid.side**2
    count = min(len(features), max(1, _MOST_ROWS // positions))
    gram, cross, mean_x, mean_y = _moments(features[:count], images[:count], grid, kernel)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0.0)
    scale = values.mean().clamp(min=1e-12)
    rotated = vectors.T @ cross
    for strength in STRENGTHS:
        weight = vectors @ (rotated / (values + strength * scale)[:, None])
        bias = mean_y - mean_x @ weight
        yield LinearPath(grid, kernel, weight.float(), bias.float())


def _moments(
    features: Tensor, images: Tensor, grid: Grid, kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return covariance (D, D), cross-covariance (D, out) and both means, all float64."""
    step = max(1, _ROWS_AT_ONCE // (1 if kernel == 0 else grid.side**2))
    gram, cross, sum_x, sum_y = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    rows = 0
    for start in range(0, len(features), step):
        columns = columns_of(features[start : start + step], kernel)
        # Around grey the float32 products lose fewer digits.
        targets = images_to_rows(images[start : start + step], grid, kernel) - 0.5
        gram = gram + (columns.T @ columns).double()
        cross = cross + (columns.T @ targets).double()
        sum_x = sum_x + columns.sum(0, dtype=torch.float64)
        sum_y = sum_y + targets.sum(0, dtype=torch.float64)
        rows += len(columns)
    mean_x, mean_y = sum_x / rows, sum_y / rows
    gram = gram / rows - torch.outer(mean_x, mean_x)
    cross = cross / rows - torch.outer(mean_x, mean_y)
    return gram, cross, mean_x, mean_y + 0.5
