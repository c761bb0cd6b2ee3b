"""The closed form against least squares written out, and on maps that it must invert exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from attack.geometry import Grid, grid_of
from attack.linear import (
    STRENGTHS,
    LinearPath,
    columns_of,
    constant_path,
    images_to_rows,
    kernels_for,
    ridge_paths,
    rows_to_images,
)


def images(count: int, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel", [0, 1])
def test_ridge_is_the_solution_of_its_normal_equations(kernel: int) -> None:
    y = images(400)
    grid = Grid(5, 4, 4, 1, 16)
    x = torch.randn(400, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    a = columns_of(x, kernel).double().numpy()
    b = images_to_rows(y, grid, kernel).double().numpy()
    a0, b0 = a - a.mean(0), b - b.mean(0)
    for strength, path in zip(STRENGTHS, ridge_paths(x, y, grid, kernel), strict=True):
        gram = a0.T @ a0 / len(a)
        ridge = strength * np.trace(gram) / len(gram) * np.eye(len(gram))
        weight = np.linalg.solve(gram + ridge, a0.T @ b0 / len(a))
        assert np.abs(path.weight.detach().numpy() - weight).max() < 1e-4
        if strength >= 1e-3:
            expected = b.mean(0) + (a - a.mean(0)) @ weight
            got = images_to_rows(path(x).detach(), grid, kernel).numpy()
            assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize("kernel", [0, 1])
def test_rows_and_images_are_inverse(kernel: int) -> None:
    grid, y = Grid(5, 4, 4, 1, 16), images(3)
    assert torch.equal(rows_to_images(images_to_rows(y, grid, kernel), grid, kernel), y)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_path_is_its_columns_times_its_weight(kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = Grid(5, 4, 4, 1, 16)
    weight = torch.randn(5 * kernel**2, 48, generator=generator)
    bias = torch.randn(48, generator=generator)
    x = torch.randn(3, 5, 4, 4, generator=generator)
    got = LinearPath(grid, kernel, weight, bias)(x).detach()
    expected = rows_to_images(columns_of(x, kernel) @ weight + bias, grid, kernel)
    assert torch.allclose(got, expected, atol=1e-4)


def test_a_bilinear_enlargement_is_inverted_to_its_borders() -> None:
    y = images(120)
    x = interpolate(y, size=32, mode="bilinear", align_corners=False) - 0.5
    grid = grid_of((3, 32, 32), 16)
    folded = x.reshape(120, 3, 16, 2, 16, 2).permute(0, 1, 3, 5, 2, 4).reshape(120, 12, 16, 16)
    kernel = kernels_for(grid)[0]
    errors = [
        (path(folded[80:]) - y[80:]).square().mean().item()
        for path in ridge_paths(folded[:80], y[:80], grid, kernel)
    ]
    # 50 dB of random pixels, from neighbours that repeat each other and few images.
    assert min(errors) < 1e-5


def test_the_constant_answers_with_the_mean_image() -> None:
    y = images(30)
    path = constant_path(grid_of((8, 4, 4), 16), y)
    got = path(torch.zeros(2, 8, 4, 4)).detach()
    assert torch.allclose(got, y.mean(0).expand(2, -1, -1, -1), atol=1e-6)


def test_no_kernel_costs_more_columns_than_a_machine_can_solve() -> None:
    for boundary in [(24, 8, 8), (24, 4, 4), (576,), (30_000,), (16, 32, 32), (576, 7, 7)]:
        grid = grid_of(boundary, 32)
        for kernel in kernels_for(grid):
            assert columns_of(torch.zeros(1, grid.channels, grid.side, grid.side), kernel).shape[
                1
            ] <= max(1100, 2048)
    assert kernels_for(grid_of((30_000,), 32)) == ()
