"""The wire tensor's grid: from real values to uint8 steps and back, bit for bit. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from records.errors import ArtifactError

if TYPE_CHECKING:
    from records.manifest import WireTensor


def dequantize(q: npt.NDArray[np.uint8], wire: WireTensor) -> npt.NDArray[np.float32]:
    """Return the real values of a wire tensor: float32(scale) · (q − zero_point).

    The product is one float32 multiplication, as in torch's ``dequantize`` and ONNX's
    DequantizeLinear, so it is equal to theirs bit for bit.

    Args:
        q: uint8 of any shape.
        wire: its scale and zero point.
    """
    # q − zero_point is a small integer and therefore exact in float32.
    real = np.subtract(q, np.float32(wire.zero_point), dtype=np.float32)
    np.multiply(real, np.float32(wire.scale), out=real)
    return real


def sent_values(
    output: npt.NDArray[np.generic], wire: WireTensor, name: str
) -> npt.NDArray[np.uint8]:
    """Return what a wire artifact sent, when all of it fits the wire's bits.

    Args:
        output: what the artifact returned, of any shape.
        wire: its bits.
        name: of the artifact, for the message.

    Raises:
        ArtifactError: the output is not uint8, or a value is 2^bits or larger.
    """
    if output.dtype != np.uint8:
        raise ArtifactError(f"{name} sent {output.dtype}, not uint8; export again")
    q = np.asarray(output, dtype=np.uint8)
    if wire.bits < 8 and int(q.max(initial=0)) > wire.largest:
        raise ArtifactError(
            f"{name} sent the value {int(q.max())}, over the {wire.largest} of its {wire.bits} "
            "bits; export again"
        )
    return q


def to_wire(real: npt.NDArray[np.float32], wire: WireTensor) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the uint8 steps nearest to real values and how many values are not exactly on one.

    Args:
        real: float32 of any shape.
        wire: scale and zero point of the grid.

    Returns:
        uint8 of the same shape, clipped to 0 … 2^bits − 1, and the number of values that
        `dequantize` does not give back bit for bit.
    """
    # Values far off the grid may overflow or be no number: they are counted, not warned about.
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.divide(real, np.float32(wire.scale))
        np.rint(steps, out=steps)
        steps += np.float32(wire.zero_point)
        np.clip(steps, 0, wire.largest, out=steps)
    q = np.nan_to_num(steps, copy=False, nan=0.0).astype(np.uint8)
    return q, differing_values(dequantize(q, wire), real)


@dataclass(frozen=True)
class Moved:
    """What `to_wire_near` found.

    ``q``: uint8 steps. ``off_grid``: values not exactly on one. ``positions``: flat, ascending,
    where the real values are not those of the known tensor.
    """

    q: npt.NDArray[np.uint8]
    off_grid: int
    positions: npt.NDArray[np.intp]


def to_wire_near(
    real: npt.NDArray[np.float32],
    wire: WireTensor,
    near_q: npt.NDArray[np.uint8],
    near_real: npt.NDArray[np.float32],
) -> Moved:
    """Return what `to_wire` returns, faster where most values are those of a known tensor.

    Args:
        real: float32 of any shape.
        wire: scale and zero point of the grid.
        near_q: uint8 of the same shape.
        near_real: ``dequantize(near_q, wire)``.
    """
    positions = np.flatnonzero(bits(real) != bits(near_real))
    if len(positions) == 0:
        return Moved(near_q, 0, positions)
    q = near_q.copy()
    steps, off_grid = to_wire(real.reshape(-1)[positions], wire)
    q.reshape(-1)[positions] = steps
    return Moved(q, off_grid, positions)


def differing_values(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> int:
    """Count the values of two float32 tensors of one shape that are not equal bit for bit."""
    return int(np.count_nonzero(bits(left) != bits(right)))


def bits(real: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """View float32 values as their bits, uint32 of the same shape."""
    return np.ascontiguousarray(real, dtype=np.float32).view(np.uint32)
