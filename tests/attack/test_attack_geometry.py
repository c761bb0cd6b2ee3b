"""Grids: any boundary finds one, and nothing is lost on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attack.geometry import (
    fold_blocks,
    grid_of,
    move_between,
    smallest_divisor_from,
    to_grid,
    trunk_side,
    unfold_blocks,
)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 130), st.integers(8, 64))
def test_every_square_boundary_finds_a_grid_that_divides_the_image(
    channels: int, side: int, image: int
) -> None:
    grid = grid_of((channels, side, side), image)
    assert image % grid.side == 0
    assert grid.resized >= side
    assert grid.resized == grid.side * grid.fold
    assert grid.block * grid.side == image
    got = to_grid(torch.zeros(2, channels, side, side), grid)
    assert got.shape == (2, grid.channels, grid.side, grid.side)


@pytest.mark.parametrize(
    ("boundary", "side", "channels"),
    [
        ((24, 8, 8), 8, 24),
        ((24, 7, 7), 8, 24),
        ((16, 32, 32), 32, 16),
        ((3, 64, 64), 32, 12),
        ((576, 1, 1), 1, 576),
        ((100,), 1, 100),
        ((7, 5), 1, 35),
        ((4, 2, 3), 1, 24),
    ],
)
def test_known_boundaries_of_32_px_images(
    boundary: tuple[int, ...], side: int, channels: int
) -> None:
    grid = grid_of(boundary, 32)
    assert (grid.side, grid.channels) == (side, channels)
    assert to_grid(torch.zeros(2, *boundary), grid).shape == (2, channels, side, side)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_folding_and_unfolding_are_inverse(channels: int, block: int, side: int) -> None:
    x = torch.arange(2 * channels * (side * block) ** 2).reshape(2, channels, side * block, -1)
    folded = fold_blocks(x, block)
    assert folded.shape == (2, channels * block**2, side, side)
    assert torch.equal(unfold_blocks(folded, block), x)


def test_folding_is_torch_s_pixel_unshuffle() -> None:
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(fold_blocks(x, 4), torch.nn.functional.pixel_unshuffle(x, 4))


@settings(deadline=None)
@given(st.integers(8, 512))
def test_the_trunk_works_on_a_grid_that_divides_the_image(image: int) -> None:
    side = trunk_side(image)
    assert image % side == 0
    assert side >= min(16, image // 4)


def test_moving_between_grids_folds_or_resizes() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert move_between(x, 8) is x
    assert torch.equal(move_between(x, 4), fold_blocks(x, 2))
    assert move_between(x, 6).shape == (2, 3, 6, 6)
    assert smallest_divisor_from(28, 8) == 14
