"""Re-identification and label recovery against brute force and another runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from attack.metrics import as_stored_images, as_unit_images
from attack.recovery import RecoveryMeter, WholeNetwork, nearest_original
from tests.runtime_check.tiny_bundle import tiny_bundle, with_varied_classes

if TYPE_CHECKING:
    from torch import nn


def test_the_nearest_original_is_that_of_a_plain_search() -> None:
    rng = np.random.default_rng(0)
    originals = rng.uniform(0, 1, (40, 3, 8, 8)).astype(np.float32)
    guesses = np.clip(0.1 * originals[:25] + rng.uniform(0, 0.9, (25, 3, 8, 8)), 0, 1)
    guesses = guesses.astype(np.float32)
    expected = [
        int(np.argmin([np.mean((guess.astype(float) - o) ** 2) for o in originals]))
        for guess in guesses
    ]
    assert expected != list(range(25))
    assert nearest_original(guesses, originals).tolist() == expected


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> tuple[WholeNetwork, nn.Module]:
    varied = with_varied_classes(tiny_model, tiny_images)
    bundle, _ = tiny_bundle(tmp_path_factory.mktemp("recovery"), varied, tiny_images)
    return WholeNetwork(bundle, threads=1), varied


def test_classes_are_those_of_the_network_in_torch(
    measured: tuple[WholeNetwork, nn.Module], tiny_images: npt.NDArray[np.uint8]
) -> None:
    network, model = measured
    x = torch.from_numpy(tiny_images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    with torch.inference_mode():
        expected = model(x).argmax(1).numpy()
    assert len(set(expected)) > 3
    assert (network.classes(tiny_images) == expected).mean() > 0.99


def test_originals_recover_everything_and_others_images_nothing(
    measured: tuple[WholeNetwork, nn.Module], tiny_images: npt.NDArray[np.uint8]
) -> None:
    from baseline.images import ImageSet

    network, _ = measured
    predicted = network.classes(tiny_images)
    # A quarter of the victims has a label that the network does not give.
    labels = predicted.copy()
    labels[::4] = (labels[::4] + 1) % 8
    victims = as_unit_images(tiny_images)
    meter = RecoveryMeter(network, ImageSet(tiny_images, labels), victims)
    assert meter.original_top1 == 0.75
    same = meter.measure(victims, tiny_images)
    assert (same.reidentified, same.label_agreement, same.label_top1) == (1.0, 1.0, 0.75)
    assert same.gallery == same.probes == 256
    rolled = np.roll(victims, 1, axis=0)
    other = meter.measure(rolled, as_stored_images(rolled))
    assert other.reidentified == 0.0
    expected = float((np.roll(predicted, 1) == predicted).mean())
    assert other.label_agreement == pytest.approx(expected)
    few = meter.measure(victims[:10], tiny_images[:10])
    assert (few.probes, few.gallery, few.reidentified) == (10, 256, 1.0)
