from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from baseline.preprocessing import preprocess
from records.errors import DataError
from records.manifest import Preprocessing

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def _spec(native: int, size: int) -> Preprocessing:
    return Preprocessing(native_size=native, image_size=size, mean=MEAN, std=STD)


def _images(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _oracle(images: np.ndarray, size: int) -> np.ndarray:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    x = (x - mean) / std
    x = functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    return x.numpy()


@settings(max_examples=40, deadline=None)
@given(native=st.integers(8, 70), size=st.integers(8, 140), seed=st.integers(0, 999))
def test_equals_torch(native: int, size: int, seed: int) -> None:
    images = _images(2, native, seed)
    out = preprocess(images, _spec(native, size))
    assert out.dtype == np.float32
    assert out.shape == (2, 3, size, size)
    assert np.abs(out - _oracle(images, size)).max() <= 1e-5


@pytest.mark.parametrize("size", [32, 64])
def test_an_images_result_does_not_depend_on_its_batch(size: int) -> None:
    images = _images(300, 32)
    whole = preprocess(images, _spec(32, size))
    alone = np.concatenate([preprocess(images[i : i + 1], _spec(32, size)) for i in range(300)])
    assert np.array_equal(whole, alone)


def test_a_constant_image_stays_constant() -> None:
    images = np.full((1, 32, 32, 3), 128, np.uint8)
    out = preprocess(images, _spec(32, 47))
    expected = (128 / 255 - np.array(MEAN)) / np.array(STD)
    assert np.abs(out - expected[None, :, None, None]).max() < 1e-6


def test_strided_input_and_none_at_all() -> None:
    images = _images(6, 32)
    assert np.array_equal(
        preprocess(images[::2], _spec(32, 64)), preprocess(images[::2].copy(), _spec(32, 64))
    )
    assert preprocess(images[:0], _spec(32, 64)).shape == (0, 3, 64, 64)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 16, 16, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
    ],
)
def test_other_shapes_and_dtypes_are_refused(images: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8"):
        preprocess(images, _spec(32, 32))
