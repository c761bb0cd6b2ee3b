"""Muon for the decoder's convolutions: momentum whose update is made orthogonal.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". torch's own takes
matrices only and works in bfloat16, whose bits and speed differ from CPU to CPU; this one takes
convolutions and stays in float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_MOMENTUM = 0.95
_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315
_TINY = 1e-7


class Muon:
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    A weight (out, in, k, k) is taken as the matrix (out, in·k·k). Every update has a spectral norm
    of about 1, so one rate suits every width.
    """

    def __init__(self, weights: Iterable[Tensor], weight_decay: float) -> None:
        """Optimise ``weights`` of two or more axes in place."""
        self._weights = list(weights)
        self._decay = weight_decay
        self._momentum = [torch.zeros_like(w) for w in self._weights]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step along the gradients that the weights hold; none leaves a weight alone."""
        for weight, momentum in zip(self._weights, self._momentum, strict=True):
            gradient = weight.grad
            if gradient is None:
                continue
            momentum.lerp_(gradient, 1 - _MOMENTUM)
            ahead = gradient.lerp(momentum, _MOMENTUM)
            update = orthogonalised(ahead.flatten(1)).reshape(weight.shape)
            rows, columns = ahead.flatten(1).shape
            weight.mul_(1 - rate * self._decay)
            weight.add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def clear(self) -> None:
        """Drop the gradients."""
        for weight in self._weights:
            weight.grad = None


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return the matrix with all singular values moved into about 0.7 … 1.2.

    Five quintic Newton–Schulz steps with the coefficients of Jordan et al. 2024; zero stays zero.

    Args:
        matrix: float32 (rows, columns).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix) / (matrix.norm() + _TINY)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if tall else x
