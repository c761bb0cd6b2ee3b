"""Muon against an exact polar factor, and what it must leave alone."""

from __future__ import annotations

import pytest
import torch

from attack.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (8, 8)])
def test_the_update_has_the_singular_vectors_and_nearly_equal_values(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    got = orthogonalised(matrix)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ got @ v.T
    strong = s > 0.05 * s.max()
    assert inside.diagonal()[strong].min() > 0.6
    assert inside.diagonal().max() < 1.3
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3
    assert torch.allclose(orthogonalised(3.0 * matrix), got, atol=1e-4)


def test_zero_stays_zero() -> None:
    assert torch.equal(orthogonalised(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_a_step_goes_down_decays_and_skips_what_has_no_gradient() -> None:
    weight = torch.ones(4, 2, 3, 3, requires_grad=True)
    still = torch.ones(4, 2, 3, 3, requires_grad=True)
    optimizer = Muon([weight, still], weight_decay=0.5)
    goal = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    before = float((weight.detach() - goal).square().sum())
    (weight - goal).square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step(0.05)
    assert float((weight.detach() - goal).square().sum()) < before
    assert torch.equal(still, torch.ones_like(still))
    optimizer.clear()
    assert weight.grad is None
    with torch.no_grad():
        weight.fill_(1.0)
    weight.grad = torch.zeros_like(weight)
    Muon([weight], weight_decay=0.5).step(0.1)
    assert torch.allclose(weight, torch.full_like(weight, 0.95))
