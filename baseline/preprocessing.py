"""From stored images to a network's input, in numpy alone: it runs where there is no torch.

Elementwise arithmetic only, no matrix product: the same bits on every machine and for every
batch size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from records.errors import DataError

if TYPE_CHECKING:
    from records.manifest import Preprocessing

#: Images handled at a time: the working set then fits a processor's second-level cache.
_CHUNK_BYTES = 1 << 19


@dataclass(frozen=True)
class _Taps:
    """Output pixel i along one axis = near[i] · x[low[i]] + far[i] · x[high[i]]."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    near: NDArray[np.float32]
    far: NDArray[np.float32]


def preprocess(images: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float32]:
    """Normalize per channel, then resize bilinearly (half-pixel centres, no antialias).

    The same as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` of
    ``(x / 255 − mean) / std``, to 1e-5.

    Args:
        images: uint8 (N, H, H, 3) with H = ``spec.native_size``.
        spec: sizes in pixels, mean and standard deviation of each channel in units of 255 levels.

    Returns:
        float32 (N, 3, S, S) with S = ``spec.image_size``.

    Raises:
        DataError: another shape or dtype.
    """
    side, size = spec.native_size, spec.image_size
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
        raise DataError(
            f"images must be uint8 (N, {side}, {side}, 3), not {images.dtype} {images.shape}"
        )
    table, taps = _table(spec), _taps(side, size)
    out = np.empty((len(images), 3, size, size), dtype=np.float32)
    step = max(1, _CHUNK_BYTES // (12 * max(side, size) ** 2))
    for start in range(0, len(images), step):
        chunk, target = images[start : start + step], out[start : start + step]
        if side == size:
            _normalize(chunk, table, target)
        else:
            normal = np.empty((len(chunk), 3, side, side), dtype=np.float32)
            _normalize(chunk, table, normal)
            _resize(normal, taps, target)
    return out


def _table(spec: Preprocessing) -> NDArray[np.float32]:
    """Return the normalized value of every level of every channel, float32 (3, 256)."""
    levels = np.arange(256, dtype=np.float64) / 255.0
    mean, std = (np.array(value, dtype=np.float64)[:, None] for value in (spec.mean, spec.std))
    return ((levels - mean) / std).astype(np.float32)


def _taps(side: int, size: int) -> _Taps:
    centres = np.maximum((np.arange(size) + 0.5) * (side / size) - 0.5, 0.0)
    low = np.minimum(centres.astype(np.intp), side - 1)
    far = (centres - low).astype(np.float32)
    near = np.float32(1.0) - far
    return _Taps(low=low, high=np.minimum(low + 1, side - 1), near=near, far=far)


def _normalize(
    images: NDArray[np.uint8], table: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    for channel in range(3):
        # mode="clip" lets numpy write into ``out`` unbuffered; a uint8 is never out of range.
        np.take(table[channel], images[..., channel], out=out[:, channel], mode="clip")


def _resize(images: NDArray[np.float32], taps: _Taps, out: NDArray[np.float32]) -> None:
    wide = images.take(taps.low, axis=3)
    wide *= taps.near
    second = images.take(taps.high, axis=3)
    second *= taps.far
    wide += second
    np.take(wide, taps.low, axis=2, out=out, mode="clip")
    out *= taps.near[:, None]
    second = wide.take(taps.high, axis=2)
    second *= taps.far[:, None]
    out += second
