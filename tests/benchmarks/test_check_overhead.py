"""What the check costs over a bare session loop, on a real edge at 32 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from baseline.datasets import load_splits
from baseline.model import build_model
from benchmarks.check_overhead import Overhead, cost, main, measure
from export.build import export_bundle
from export.bundle import Bundle, load_bundle
from records.recipe import DataRecipe, Recipe

LIMIT = 1.15


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """MobileNetV3-Small cut at features.3, untrained: its weights do not change its cost."""
    folder = tmp_path_factory.mktemp("overhead") / "bundle"
    recipe = Recipe(data=DataRecipe(train=64, calibration=128, attacker=64, victims=64))
    splits = load_splits(recipe.data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(recipe.model, len(splits.classes))
    export_bundle(model, recipe, splits, "features.3", folder, checkpoint_sha256=64 * "0")
    return load_bundle(folder)


def images(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("artifact", ["edge_int8_onnx", "edge_int8_wire_onnx"])
def test_checking_10000_images_costs_little_over_running_them(
    bundle: Bundle, artifact: str
) -> None:
    # A neighbour's burst can spoil one measurement; a check that is slow is slow every time.
    ratios: list[float] = []
    while not ratios or (ratios[-1] > LIMIT and len(ratios) < 8):
        ratios.append(measure(bundle, images(10_000), artifact=artifact).ratio)
    assert min(ratios) <= LIMIT, ratios


@pytest.mark.slow
def test_and_little_over_running_them_through_both_halves(bundle: Bundle) -> None:
    found = measure(bundle, images(10_000), repetitions=3, through_server=True)
    assert found.ratio <= LIMIT
    assert found.bare.shape == found.checked.shape == found.run_only.shape == (3, 40)


def test_cost_drops_a_batch_that_was_interrupted() -> None:
    seconds = np.array([[1.0, 2.0], [1.0, 50.0], [1.0, 2.0]])
    assert cost(seconds) == 3.0
    found = Overhead(bare=seconds, checked=seconds * 1.1, run_only=seconds / 2)
    assert found.ratio == pytest.approx(1.1)
    assert found.ratio_to_run_only == pytest.approx(2.2)


def test_command_prints_the_ratios(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle.folder), "500", "2"]) == 0
    assert capsys.readouterr().out.count("ratio") == 2


def test_no_bundle_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err
