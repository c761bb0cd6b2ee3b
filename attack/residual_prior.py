"""How the truth is spread around a first guess: variances by colour axis and spatial frequency.

Estimated from the attacker's own images. A change of the guess is written as ``u`` in whitened
coordinates, in which the prior is a standard normal: ‖u‖² is then −2·log p + const., and gradient
descent on u is preconditioned by what is known about images (Tikhonov in the eigenbasis of a
stationary covariance; the cosine transform nearly is that basis, Ahmed et al. 1974).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Keeps a frequency that never varied from being impossible.
_SMALLEST_SHARE = 1e-3


class ResidualPrior:
    """A zero-mean normal distribution over images (3, H, H), diagonal in colour and frequency."""

    def __init__(self, residuals: Tensor) -> None:
        """Estimate it from residuals, float32 (M, 3, H, H), M ≥ 1."""
        count, _, side, _ = residuals.shape
        self._cosines = cosine_basis(side)
        covariance = torch.einsum("ncij,ndij->cd", residuals, residuals) / (count * side * side)
        _, self._colours = torch.linalg.eigh(covariance)
        turned = torch.einsum("ck,ncij->nkij", self._colours, residuals)
        power = (self._cosines @ turned @ self._cosines.T).square().mean(0)
        self._deviation = power.clamp(min=_SMALLEST_SHARE * float(power.mean()) + 1e-12).sqrt()

    def change(self, u: Tensor) -> Tensor:
        """Return the change of the image for whitened ``u``, both float32 (N, 3, H, H)."""
        planes = self._cosines.T @ (u * self._deviation) @ self._cosines
        return torch.einsum("ck,nkij->ncij", self._colours, planes)


def cosine_basis(side: int) -> Tensor:
    """Return the orthonormal DCT-II matrix, float32 of shape (side, side), one frequency a row."""
    grid = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(torch.pi / side * (grid[None, :] + 0.5) * grid[:, None])
    basis *= (2.0 / side) ** 0.5
    basis[0] *= 0.5**0.5
    return basis.float()
