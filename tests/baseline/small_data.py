"""A small learnable data set for the tests here: each class has its own colour and wave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def coloured_images(
    count: int, classes: int, side: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return uint8 (count, side, side, 3) and int64 (count,): noise upon the class's pattern."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    patterns = np.random.default_rng(7).uniform(60, 190, (classes, 1, 1, 3))
    waves = np.sin(np.arange(side) * (1 + labels[:, None]) * np.pi / side)[:, None, :, None]
    values = patterns[labels] + 30 * waves + rng.normal(0, 15, (count, side, side, 3))
    return np.clip(values, 0, 255).astype(np.uint8), labels


def write_npz(
    path: Path, *, train: int = 96, test: int = 40, classes: int = 4, side: int = 32
) -> Path:
    """Write a valid ``npz:`` data set and return its path."""
    train_x, train_y = coloured_images(train, classes, side, seed=1)
    test_x, test_y = coloured_images(test, classes, side, seed=2)
    names = np.array([f"colour {k}" for k in range(classes)])
    np.savez(path, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, classes=names)
    return path
