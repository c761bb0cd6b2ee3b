"""Agreement of two float boundaries, summed over a stream of batches. Numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from records.errors import ArtifactError

Real = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WorstFloat:
    """The image with the largest absolute difference: its place and both boundaries, (…)."""

    index: int
    reference: Real
    other: Real


class FloatTally:
    """Signal, difference and largest difference of two float32 tensors, in float64 sums."""

    def __init__(self) -> None:
        """Start with no value seen."""
        self._signal = 0.0
        self._noise = 0.0
        self._images = 0
        self.max_abs = 0.0
        self.worst: WorstFloat | None = None

    def update(self, reference: Real, other: Real) -> None:
        """Add one batch of two float32 tensors of the same shape (N, …).

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != other.shape:
            raise ValueError(f"shapes differ: {reference.shape} and {other.shape}")
        left = reference.astype(np.float64).reshape(len(reference), -1)
        difference = left - other.reshape(len(other), -1)
        # Not a dot product: BLAS would take threads of its own, and their number would show.
        self._signal += float(np.sum(np.square(left)))
        self._noise += float(np.sum(np.square(difference)))
        largest = np.abs(difference).max(axis=1, initial=0.0)
        row = int(np.argmax(largest))
        if largest[row] > self.max_abs:
            self.max_abs = float(largest[row])
            self.worst = WorstFloat(
                index=self._images + row, reference=reference[row].copy(), other=other[row].copy()
            )
        self._images += len(reference)

    def parity_sqnr_db(self) -> float | None:
        """Return 10·log10(Σ ref² / Σ (ref − other)²) in dB, None when there is no difference.

        Raises:
            ArtifactError: the reference is zero everywhere.
        """
        if self._noise == 0.0:
            return None
        if self._signal == 0.0:
            raise ArtifactError("the FP32 edge is zero on every image; the network is broken")
        return 10.0 * math.log10(self._signal / self._noise)
