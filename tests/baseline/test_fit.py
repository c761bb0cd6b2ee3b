from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baseline.checkpoint import Checkpoints
from baseline.fit import fit, make_optimizer
from baseline.images import ImageSet
from baseline.preprocessing import preprocess
from records.errors import DataError, ModelError
from records.manifest import Preprocessing
from records.recipe import TrainRecipe
from records.training import EpochRecord
from tests.baseline.small_data import coloured_images
from tests.tiny_network import build

CPU = torch.device("cpu")
SPEC = Preprocessing(native_size=32, image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def _fit(
    folder: Path,
    model: nn.Module,
    images: ImageSet,
    recipe: TrainRecipe,
    spec: Preprocessing = SPEC,
) -> tuple[EpochRecord, ...]:
    return fit(model, images, spec, recipe, device=CPU, checkpoints=Checkpoints(folder, "a" * 64))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return ImageSet(*coloured_images(97, 4, 32, seed=0))


def test_the_loss_falls_and_the_rates_follow_the_schedule(tmp_path: Path, images: ImageSet) -> None:
    torch.manual_seed(0)
    model = build(4)
    epochs = _fit(tmp_path, model, images, TrainRecipe(epochs=8, batch_size=16))
    assert [epoch.epoch for epoch in epochs] == list(range(8))
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    assert epochs[-1].learning_rate < epochs[2].learning_rate
    assert not model.training


class _Spy(nn.Module):
    """A linear network that keeps what it was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("size", [32, 64])
def test_the_network_is_fed_what_deployment_feeds_it(
    tmp_path: Path, images: ImageSet, size: int
) -> None:
    spy = _Spy()
    spec = Preprocessing(native_size=32, image_size=size, mean=SPEC.mean, std=SPEC.std)
    recipe = TrainRecipe(epochs=1, batch_size=10, augment=False)
    _fit(tmp_path, spy, images, recipe, spec)
    fed = torch.cat(spy.seen).numpy()
    deployed = preprocess(images.images, spec)
    # In another order: each deployed image has its equal among the fed ones.
    distances = np.abs(fed[:, None, :, ::9, ::9] - deployed[None, :, :, ::9, ::9]).max(
        axis=(2, 3, 4)
    )
    order = distances.argmin(axis=1)
    assert sorted(order.tolist()) == list(range(97))
    assert np.abs(fed - deployed[order]).max() <= 1e-5


def test_decay_is_for_matrices_and_kernels_only() -> None:
    model = build(4)
    groups = make_optimizer(model, TrainRecipe(weight_decay=0.2)).param_groups
    decayed = {id(p) for p in groups[0]["params"]}
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.2, 0.0)
    named = dict(model.named_parameters())
    for name in ("stem.0.weight", "block2.pointwise.weight", "classifier.weight"):
        assert id(named[name]) in decayed
    for name in ("stem.1.weight", "block1.norm1.bias", "head.0.bias", "classifier.bias"):
        assert id(named[name]) not in decayed
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_batch_norm_is_given_back_as_it_came(tmp_path: Path, images: ImageSet) -> None:
    momenta: list[float | None] = []

    class _Watch(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            momenta.append(self.momentum)
            return super().forward(x)

    norm = _Watch(3, momentum=0.01)
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(3072, 4))
    _fit(tmp_path, model, images, TrainRecipe(epochs=1))
    assert set(momenta) == {0.1}
    assert norm.momentum == 0.01


def test_the_global_generator_is_left_alone(tmp_path: Path, images: ImageSet) -> None:
    before = torch.random.get_rng_state()
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 4))
    state = torch.random.get_rng_state()
    _fit(tmp_path, model, images, TrainRecipe(epochs=1))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.random.set_rng_state(before)


def test_a_diverging_training_is_stopped(tmp_path: Path, images: ImageSet) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    with torch.no_grad():
        model.get_parameter("1.weight").fill_(float("inf"))
    with pytest.raises(ModelError, match="not finite; lower learning_rate"):
        _fit(tmp_path, model, images, TrainRecipe(epochs=2))
    assert list(tmp_path.iterdir()) == []


def test_a_single_image_is_refused(tmp_path: Path, images: ImageSet) -> None:
    with pytest.raises(DataError, match="two images"):
        _fit(tmp_path, build(4), images.take(np.array([0])), TrainRecipe(epochs=1))


def test_a_batch_size_that_leaves_one_image_over_trains(tmp_path: Path, images: ImageSet) -> None:
    # 97 = 6 · 16 + 1: BatchNorm over 1 × 1 maps would refuse the last image alone.
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    assert len(_fit(tmp_path, model, images, TrainRecipe(epochs=1, batch_size=16))) == 1
