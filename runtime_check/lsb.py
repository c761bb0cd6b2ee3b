"""Differences of uint8 boundaries in LSB, summed over a stream of batches. Numpy only.

One LSB is one step of the boundary's scale, so two tensors of the same scale and zero point
differ by ``|a − b|`` LSB value by value, and no float is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from records.errors import ArtifactError
from records.manifest import WireTensor
from records.parity import LsbDifference, WorstImage
from runtime_check.wire import dequantize

KEPT_WORST = 16

Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """One batch of the reference boundary.

    ``q``: uint8 (N, …). ``real``: the same dequantized, float32 (N, …). ``energy``:
    Σ (q − zero_point)² over the batch.
    """

    q: Bytes
    real: npt.NDArray[np.float32]
    energy: int


def reference_batch(
    q: Bytes, wire: WireTensor, real: npt.NDArray[np.float32] | None = None
) -> Reference:
    """Return a batch of the reference, with what all artifacts share computed once.

    Args:
        q: uint8 (N, …).
        wire: its scale and zero point.
        real: ``dequantize(q, wire)`` where it is at hand.
    """
    # Squares of steps are below 2¹⁶ and their sum below 2⁵³: every float here is an exact integer.
    steps = q.reshape(-1).astype(np.float32)
    steps -= np.float32(wire.zero_point)
    steps *= steps
    energy = int(np.add.reduce(steps, dtype=np.float64))
    return Reference(q=q, real=dequantize(q, wire) if real is None else real, energy=energy)


@dataclass(frozen=True)
class WorstBatch:
    """The kept images of one artifact, worst first; all arrays have the same length K ≤ 16.

    ``index``: place in the victim set. ``reference``, ``artifact``: uint8 (K, …).
    """

    index: Counts
    max_lsb: Counts
    sum_lsb: Counts
    reference: Bytes
    artifact: Bytes


class LsbTally:
    """Histogram of |artifact − reference| in LSB and the images that differ most.

    Memory does not grow with the number of images.
    """

    def __init__(self) -> None:
        """Start with no image seen."""
        self._histogram = np.zeros(256, dtype=np.int64)
        self._energy = 0
        self._images = 0
        self._off_grid = 0
        self._worst: WorstBatch | None = None

    def update(
        self,
        reference: Reference,
        artifact: Bytes,
        off_grid: int = 0,
        moved: npt.NDArray[np.intp] | None = None,
    ) -> bool:
        """Add one batch.

        Args:
            reference: N images.
            artifact: uint8 of the reference's shape.
            off_grid: values of a float boundary that were not exactly on the wire's grid.
            moved: flat positions that alone may differ, ascending, where they are known.

        Returns:
            True when the batch equals the reference bit for bit.

        Raises:
            ValueError: the shapes differ, or the batch is not uint8.
        """
        if artifact.shape != reference.q.shape or artifact.dtype != np.uint8:
            raise ValueError(
                f"the artifact's batch is {artifact.dtype}{artifact.shape}, the reference "
                f"uint8{reference.q.shape}"
            )
        self._images += len(artifact)
        self._energy += reference.energy
        self._off_grid += off_grid
        if moved is None:
            moved = np.flatnonzero(artifact != reference.q)
        left, right = artifact.reshape(-1)[moved], reference.q.reshape(-1)[moved]
        distance = np.maximum(left, right) - np.minimum(left, right)
        self._histogram[0] += artifact.size - len(moved)
        if not distance.any():
            self._histogram[0] += len(moved)
            return off_grid == 0
        self._histogram += np.bincount(distance, minlength=256)
        values_per_image = artifact.size // len(artifact)
        self._keep_worst(_per_image(moved // values_per_image, distance), reference.q, artifact)
        return False

    def _keep_worst(self, moved: _Moved, reference: Bytes, artifact: Bytes) -> None:
        first = self._images - len(artifact)
        kept = _worst_rows(moved.largest, moved.total)
        if self._worst is not None and len(self._worst.index) == KEPT_WORST:
            largest, total = self._worst.max_lsb[-1], self._worst.sum_lsb[-1]
            same = moved.largest[kept] == largest
            kept = kept[(moved.largest[kept] > largest) | (same & (moved.total[kept] > total))]
        if len(kept):
            rows = moved.rows[kept]
            new = WorstBatch(
                index=rows + first,
                max_lsb=moved.largest[kept],
                sum_lsb=moved.total[kept],
                reference=reference[rows],
                artifact=artifact[rows],
            )
            self._worst = new if self._worst is None else _merged(self._worst, new)

    @property
    def worst(self) -> WorstBatch | None:
        """The images that differ most, at most 16, worst first; None when none differs."""
        return self._worst

    def summary(self) -> LsbDifference:
        """Return the record of all batches so far.

        ``parity_sqnr_db`` = 10·log10(Σ (ref − zp)² / Σ (ref − artifact)²); the scale cancels.

        Raises:
            ArtifactError: no image was seen, or the reference is zero on every image.
        """
        values = int(self._histogram.sum())
        if values == 0:
            raise ArtifactError("no image was checked")
        used = np.flatnonzero(self._histogram)
        largest = int(used[-1])
        return LsbDifference(
            values=values,
            max_lsb=largest,
            histogram=tuple(self._histogram[: largest + 1].tolist()),
            share_identical=int(self._histogram[0]) / values,
            share_within_1_lsb=int(self._histogram[:2].sum()) / values,
            parity_sqnr_db=self._sqnr(),
            off_grid=self._off_grid,
            worst=_worst_records(self._worst),
        )

    def _sqnr(self) -> float | None:
        steps = np.arange(256, dtype=np.int64)
        noise = int(self._histogram @ (steps * steps))
        if noise == 0:
            return None
        if self._energy == 0:
            raise ArtifactError(
                "eager INT8's boundary is zero on every image, so there is no signal to compare "
                "with; the network or its calibration is broken"
            )
        return 10.0 * math.log10(self._energy / noise)


@dataclass(frozen=True)
class _Moved:
    """The images of a batch that differ: row, largest difference and sum, (M,) each."""

    rows: Counts
    largest: Counts
    total: Counts


def _per_image(rows: Counts, distance: Bytes) -> _Moved:
    """Reduce single differences, in the order of their rows, to one entry per row."""
    first = np.ones(len(rows), dtype=np.bool_)
    np.not_equal(rows[1:], rows[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    return _Moved(
        rows=rows[starts],
        largest=np.maximum.reduceat(distance, starts).astype(np.int64),
        total=np.add.reduceat(distance, starts, dtype=np.int64),
    )


def _worst_rows(largest: Counts, total: Counts) -> Counts:
    """Positions of the worst entries, the earlier one first among equals; at most 16."""
    order = np.lexsort((np.arange(len(total)), -total, -largest))[:KEPT_WORST]
    return order[total[order] > 0]


def _merged(old: WorstBatch, new: WorstBatch) -> WorstBatch:
    largest = np.concatenate((old.max_lsb, new.max_lsb))
    total = np.concatenate((old.sum_lsb, new.sum_lsb))
    # The kept images come from earlier batches, so position is also order in the victim set.
    rows = _worst_rows(largest, total)
    return WorstBatch(
        index=np.concatenate((old.index, new.index))[rows],
        max_lsb=largest[rows],
        sum_lsb=total[rows],
        reference=np.concatenate((old.reference, new.reference))[rows],
        artifact=np.concatenate((old.artifact, new.artifact))[rows],
    )


def _worst_records(worst: WorstBatch | None) -> tuple[WorstImage, ...]:
    if worst is None:
        return ()
    columns = zip(worst.index.tolist(), worst.max_lsb.tolist(), worst.sum_lsb.tolist(), strict=True)
    return tuple(WorstImage(index=i, max_lsb=m, sum_lsb=s) for i, m, s in columns)
