"""What every test may use: one tiny model of our own, and smooth random images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

CLASSES = 8

# A shared machine may stand still for a second: no example is wrong for that.
settings.register_profile("edgeveil", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgeveil")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: no process is then left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def tiny_images() -> npt.NDArray[np.uint8]:
    """Return 256 smooth random images, (256, 32, 32, 3) uint8: sums of a few low waves."""
    rng = np.random.default_rng(0)
    grid = np.arange(32) / 32
    images = np.full((256, 32, 32, 3), 0.5)
    for _ in range(4):
        row, column = rng.uniform(0.3, 3.0, (2, 256, 1, 1, 1))
        phase = rng.uniform(0, 2 * np.pi, (256, 1, 1, 3))
        height = rng.uniform(0.02, 0.2, (256, 1, 1, 3))
        wave = row * grid[:, None, None] + column * grid[None, :, None]
        images += height * np.sin(2 * np.pi * wave + phase)
    return np.asarray(np.clip(np.rint(images * 255), 0, 255), dtype=np.uint8)


@pytest.fixture(scope="session")
def tiny_model(tiny_images: npt.NDArray[np.uint8]) -> nn.Module:
    """Return the seeded tiny network in eval mode, BatchNorm statistics and gains not trivial.

    Shared by the whole session: a test that changes it must copy it first.
    """
    import torch

    from tests.tiny_network import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(CLASSES)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    x = torch.from_numpy(tiny_images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    with torch.no_grad():
        for start in range(0, 192, 64):
            model(x[start : start + 64])
    return model.eval()
