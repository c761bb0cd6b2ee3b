"""Metrics against scikit-image and plain numpy."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from attack.metrics import (
    Scores,
    as_stored_images,
    as_unit_images,
    histogram,
    psnr_to_mse,
    score,
    spread,
    summarise,
)
from records.attack import PSNR_CAP_DB
from records.errors import InputError


def pair(count: int, side: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count + side)
    x = rng.uniform(0, 1, (count, 3, side, side))
    y = np.clip(x + rng.normal(0, noise, x.shape), 0, 1)
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize(("side", "noise"), [(32, 0.05), (32, 0.5), (7, 0.1), (45, 1e-4)])
def test_psnr_and_ssim_equal_scikit_image(side: int, noise: float) -> None:
    x, y = pair(9, side, noise)
    got = score(x, y)
    for k in range(len(x)):
        a = np.moveaxis(x[k], 0, 2).astype(np.float64)
        b = np.moveaxis(y[k], 0, 2).astype(np.float64)
        ssim = structural_similarity(  # type: ignore[no-untyped-call]
            a, b, channel_axis=-1, data_range=1.0
        )
        psnr = peak_signal_noise_ratio(a, b, data_range=1.0)  # type: ignore[no-untyped-call]
        assert got.ssim[k] == pytest.approx(ssim, abs=1e-6)
        assert got.psnr[k] == pytest.approx(psnr, abs=1e-6)


def test_pooled_psnr_pools_the_error_not_the_decibels() -> None:
    x, y = pair(20, 16, 0.1)
    y[:10] = x[:10] * 0.5
    got = score(x, y)
    mse = np.mean((x.astype(np.float64) - y) ** 2)
    assert got.pooled_psnr == pytest.approx(-10 * np.log10(mse), abs=1e-9)
    assert got.pooled_psnr < got.psnr.mean()


def test_an_exact_reconstruction_gets_the_cap_and_ssim_one() -> None:
    x, _ = pair(3, 32, 0.1)
    got = score(x, x.copy())
    assert (got.psnr == PSNR_CAP_DB).all()
    assert got.pooled_psnr == PSNR_CAP_DB
    assert got.ssim == pytest.approx(np.ones(3))


def test_ten_thousand_images_take_seconds() -> None:
    x, y = pair(500, 32, 0.1)
    started = time.process_time()
    score(x, y)
    # A twentieth of 10,000 in a twentieth of 20 s of one core.
    assert time.process_time() - started < 1.0


def test_other_shapes_and_too_small_images_are_refused() -> None:
    x, y = pair(2, 8, 0.1)
    with pytest.raises(InputError, match="cannot compare"):
        score(x, y[:1])
    with pytest.raises(InputError, match="at least 7"):
        score(x[:, :, :6], y[:, :, :6])


def test_stored_images_survive_the_way_to_floats_and_back() -> None:
    stored = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    images = as_unit_images(stored)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.array_equal(images[2, 1], stored[2, :, :, 1] / np.float32(255))
    assert np.array_equal(as_stored_images(images), stored)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 100), min_size=1, max_size=60))
def test_a_histogram_counts_every_value_in_its_bin(values: list[float]) -> None:
    got = histogram(np.array(values))
    assert sum(got.counts) == len(values)
    for k, count in enumerate(got.counts):
        low = got.first_db + k * got.bin_db
        assert count == sum(low <= v < low + got.bin_db for v in values)


@settings(deadline=None)
@given(st.floats(0.0, 99.0))
def test_psnr_to_mse_is_the_inverse(db: float) -> None:
    scores = Scores(mse=np.array([psnr_to_mse(db)]), ssim=np.array([0.0]))
    assert scores.psnr[0] == pytest.approx(db)


def test_a_summary_measures_the_leak_from_the_floor() -> None:
    scores = Scores(mse=np.array([0.1, 0.01]), ssim=np.array([0.2, 0.6]))
    got = summarise(scores, floor_db=12.0)
    assert got.recon_psnr_db.mean == pytest.approx(15.0)
    assert got.leak_db == pytest.approx(3.0)
    assert got.recon_ssim == spread(scores.ssim)
    assert got.recon_ssim.p50 == pytest.approx(0.4)
