from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

from baseline.evaluate import accuracy, evaluate
from baseline.images import ImageSet
from records.errors import DataError
from records.manifest import Preprocessing

SPEC = Preprocessing(native_size=8, image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@settings(deadline=None)
@given(count=st.integers(1, 20_000), data=st.data(), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_scipys(count: int, data: st.DataObject, confidence: float) -> None:
    correct = data.draw(st.integers(0, count))
    ours = accuracy(correct, count, confidence=confidence)
    theirs = binomtest(correct, count).proportion_ci(confidence, method="wilson")
    assert ours.low == pytest.approx(theirs.low, abs=1e-9)
    assert ours.high == pytest.approx(theirs.high, abs=1e-9)
    assert 0.0 <= ours.low <= ours.top1 <= ours.high <= 1.0


class _RedLevel(nn.Module):
    """Logits whose largest is the image's red level."""

    def forward(self, x: Tensor) -> Tensor:
        level = (x[:, 0].mean(dim=(1, 2)) * 255).round().long()
        return nn.functional.one_hot(level, 256).float()


def test_the_share_of_right_answers_is_counted() -> None:
    images = np.zeros((600, 8, 8, 3), np.uint8)
    images[..., 0] = (np.arange(600) % 256)[:, None, None]
    labels = (np.arange(600) % 256).astype(np.int64)
    labels[::6] += 1
    found = evaluate(_RedLevel().train(), ImageSet(images, labels), SPEC)
    assert (found.correct, found.count) == (500, 600)


def test_nothing_to_count_is_refused() -> None:
    empty = ImageSet(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no images"):
        evaluate(_RedLevel(), empty, SPEC)


def test_evaluation_does_not_touch_running_statistics() -> None:
    norm = nn.BatchNorm2d(3).train()
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(192, 4))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    evaluate(model, ImageSet(images, np.zeros(5, np.int64)), SPEC)
    assert torch.equal(before, norm.running_mean)
