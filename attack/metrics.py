"""Reconstruction metrics per image, at the native resolution, data range 1.0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from records.attack import PSNR_CAP_DB, Histogram, Reconstruction, Spread
from records.errors import InputError

#: skimage's default window, and the smallest side that an SSIM can be computed of.
SSIM_WINDOW = 7
_K1, _K2 = 0.01, 0.03
_CHUNK = 500
_BIN_DB = 0.25
_SMALLEST_MSE = 10.0 ** (-PSNR_CAP_DB / 10.0)

Images = NDArray[np.float32]
Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Per-image figures of one reconstruction of N images.

    Attributes:
        mse: float64 (N,), mean squared error over pixels and channels, data range 1.0.
        ssim: float64 (N,), structural similarity.
    """

    mse: Figures
    ssim: Figures

    @property
    def psnr(self) -> Figures:
        """Per-image PSNR in dB, float64 (N,), capped at ``PSNR_CAP_DB``."""
        return psnr_of_mse(self.mse)

    @property
    def pooled_psnr(self) -> float:
        """PSNR in dB of the MSE averaged over all images, capped at ``PSNR_CAP_DB``."""
        return float(psnr_of_mse(np.asarray([self.mse.mean()]))[0])


def psnr_of_mse(mse: Figures) -> Figures:
    """Return −10·log10(mse) in dB for data range 1.0; an MSE below 1e-10 gives the cap, 100 dB.

    Args:
        mse: float64 of any shape, ≥ 0.
    """
    return np.asarray(-10.0 * np.log10(np.maximum(mse, _SMALLEST_MSE)), dtype=np.float64)


def score(original: Images, reconstruction: Images) -> Scores:
    """Return MSE and SSIM of each image.

    SSIM as in Wang et al. 2004 with skimage's defaults: uniform 7×7 window, sample covariance,
    mean over the interior and over channels; equal to
    ``skimage.metrics.structural_similarity(channel_axis=-1, data_range=1.0)`` in float64.

    Args:
        original: float32 (N, 3, H, W) in [0, 1].
        reconstruction: the same shape and range.

    Raises:
        InputError: the shapes differ, or a side is below 7 pixels.
    """
    if original.shape != reconstruction.shape or original.ndim != 4:
        raise InputError(f"cannot compare images {original.shape} with {reconstruction.shape}")
    if min(original.shape[2:]) < SSIM_WINDOW:
        raise InputError(f"SSIM needs sides of at least {SSIM_WINDOW} px, not {original.shape[2:]}")
    mse, ssim = [], []
    for start in range(0, len(original), _CHUNK):
        x = torch.from_numpy(original[start : start + _CHUNK]).double()
        y = torch.from_numpy(reconstruction[start : start + _CHUNK]).double()
        mse.append((x - y).square_().flatten(1).mean(1).numpy())
        ssim.append(_ssim(x, y).numpy())
    return Scores(mse=np.concatenate(mse), ssim=np.concatenate(ssim))


def _window_mean(x: Tensor) -> Tensor:
    """Average over each 7×7 window that lies inside: (N, C, H, W) → (N, C, H−6, W−6)."""
    return avg_pool2d(avg_pool2d(x, (SSIM_WINDOW, 1), stride=1), (1, SSIM_WINDOW), stride=1)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the SSIM of each image, (N, C, H, W) float64 → (N,)."""
    samples = SSIM_WINDOW**2
    unbiased = samples / (samples - 1)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = unbiased * (_window_mean(x * x) - mean_x * mean_x)
    var_y = unbiased * (_window_mean(y * y) - mean_y * mean_y)
    cov = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = _K1**2, _K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def summarise(scores: Scores, floor_db: float) -> Reconstruction:
    """Return the record of one reconstruction.

    Args:
        scores: figures of every victim.
        floor_db: mean per-image PSNR of the floor; ``leak_db`` is what lies above it.
    """
    psnr = scores.psnr
    return Reconstruction(
        recon_psnr_db=spread(psnr),
        recon_psnr_pooled_db=scores.pooled_psnr,
        recon_ssim=spread(scores.ssim),
        leak_db=float(psnr.mean()) - floor_db,
        histogram=histogram(psnr),
    )


def spread(values: Figures) -> Spread:
    """Return mean and linearly interpolated percentiles of (N,) values, N ≥ 1."""
    p5, p50, p95 = np.percentile(values, [5, 50, 95])
    return Spread(mean=float(values.mean()), p5=float(p5), p50=float(p50), p95=float(p95))


def histogram(values: Figures) -> Histogram:
    """Count (N,) dB values in bins of 0.25 dB that begin at a multiple of 0.25 dB."""
    index = np.floor(values / _BIN_DB).astype(np.int64)
    first = int(index.min())
    counts = np.bincount(index - first)
    return Histogram(first_db=first * _BIN_DB, bin_db=_BIN_DB, counts=tuple(int(c) for c in counts))


def as_unit_images(images: NDArray[np.uint8]) -> Images:
    """Return uint8 (N, H, W, 3) as float32 (N, 3, H, W) in [0, 1], C-contiguous."""
    moved = np.ascontiguousarray(np.moveaxis(images, 3, 1), dtype=np.float32)
    moved /= np.float32(255.0)
    return moved


def as_stored_images(images: Images) -> NDArray[np.uint8]:
    """Return float32 (N, 3, H, W) in [0, 1] as the nearest uint8 (N, H, W, 3)."""
    levels = np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, 1, 3))


def psnr_to_mse(db: float) -> float:
    """Return the MSE (data range 1.0) of a PSNR in dB."""
    return math.pow(10.0, -db / 10.0)
