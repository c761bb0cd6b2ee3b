"""Agreement of two float boundaries, summed over a stream of batches. Numpy only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from records.errors import ArtifactError


class FloatTally:
    """Signal, difference and largest difference of two float32 tensors, in float64 sums."""

    def __init__(self) -> None:
        """Start with no value seen."""
        self._signal = 0.0
        self._noise = 0.0
        self.max_abs = 0.0

    def update(self, reference: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> None:
        """Add one batch of two float32 tensors of the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != other.shape:
            raise ValueError(f"shapes differ: {reference.shape} and {other.shape}")
        left = reference.astype(np.float64).reshape(-1)
        difference = left - other.reshape(-1)
        self._signal += float(left @ left)
        self._noise += float(difference @ difference)
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))

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
