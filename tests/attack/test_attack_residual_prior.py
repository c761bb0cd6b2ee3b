"""The prior has the spectrum of the residuals that it was estimated from."""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dct, dctn

from attack.residual_prior import ResidualPrior, cosine_basis


def test_the_cosine_basis_is_scipy_s() -> None:
    expected = dct(np.eye(12), axis=0, norm="ortho")
    assert np.allclose(cosine_basis(12).numpy(), expected, atol=1e-6)


def smooth(count: int, seed: int) -> torch.Tensor:
    """Return residuals whose variance falls with frequency, colours correlated."""
    rng = torch.Generator().manual_seed(seed)
    basis = cosine_basis(8)
    fall = 1.0 / (1 + torch.arange(8.0)[:, None] + torch.arange(8.0)[None, :])
    grey = torch.randn(count, 1, 8, 8, generator=rng) * fall
    colour = 0.1 * torch.randn(count, 3, 8, 8, generator=rng) * fall
    return basis.T @ (grey + colour) @ basis


def test_draws_have_the_residuals_variance_at_every_frequency_and_colour() -> None:
    residuals = smooth(4000, 0)
    prior = ResidualPrior(residuals)
    drawn = prior.change(torch.randn(4000, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    for found, given in ((drawn, residuals), (drawn.mean(1), residuals.mean(1))):
        powers = [
            np.square(dctn(images.numpy(), axes=(-2, -1), norm="ortho")).mean(0)
            for images in (found, given)
        ]
        assert np.allclose(powers[0], powers[1], rtol=0.2, atol=1e-3 * powers[1].mean())


def test_what_never_varied_stays_possible_but_unlikely() -> None:
    prior = ResidualPrior(torch.ones(5, 3, 8, 8))
    change = prior.change(torch.ones(1, 3, 8, 8))
    assert torch.isfinite(change).all()
    flat = prior.change(torch.zeros(1, 3, 8, 8))
    assert torch.equal(flat, torch.zeros_like(flat))
