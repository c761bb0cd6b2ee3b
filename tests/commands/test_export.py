"""``edgeveil export``: from the options to the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from commands.export import command
from export.bundle import load_bundle
from tests.runtime_check.tiny_bundle import SPLIT, write_images

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_images(folder / "data.npz", tiny_model, tiny_images)
    save_file(tiny_model.state_dict(), folder / "model.safetensors")
    recipe = "[data]\ntrain = 16\ncalibration = 64\nattacker = 16\n"
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    return folder


def export(inputs: Path, out: Path, *options: str) -> Result:
    arguments = ["--recipe", str(inputs / "recipe.toml"), "--data", f"npz:{inputs / 'data.npz'}"]
    arguments += ["--model", "tests.tiny_network:build"]
    arguments += ["--weights", str(inputs / "model.safetensors"), "--split", SPLIT]
    return CliRunner().invoke(command, [*arguments, "--out", str(out), *options])


def test_the_bits_reach_the_bundle_and_their_bytes_are_printed(
    inputs: Path, tmp_path: Path
) -> None:
    done = export(inputs, tmp_path / "b", "--boundary-bits", "3")
    assert done.exit_code == 0, done.output
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.wire.bits == manifest.recipe.export.boundary_bits == 3
    assert manifest.wire.shape == (16, 8, 8)
    assert "at 3 bits a value = 384 bytes per image packed" in " ".join(done.output.split())


def test_without_the_option_8_bits_are_sent(inputs: Path, tmp_path: Path) -> None:
    done = export(inputs, tmp_path / "b")
    assert done.exit_code == 0, done.output
    assert load_bundle(tmp_path / "b").manifest.wire.bits == 8
    assert "at 8 bits a value = 1,024 bytes" in " ".join(done.output.split())


@pytest.mark.parametrize("bits", ["0", "5", "7", "16", "four"])
def test_other_bits_are_refused(inputs: Path, tmp_path: Path, bits: str) -> None:
    done = export(inputs, tmp_path / "b", "--boundary-bits", bits)
    assert done.exit_code == 2
    assert "--boundary-bits" in done.output
    assert not (tmp_path / "b").exists()


def test_training_options_reach_the_recipe_in_the_manifest(inputs: Path, tmp_path: Path) -> None:
    options = [
        "--qat",
        "--qat-epochs",
        "2",
        "--qat-images",
        "8",
        "--qat-batch-size",
        "4",
        "--qat-seed",
        "5",
    ]
    done = export(inputs, tmp_path / "b", *options, "--qat-learning-rate", "0.002")
    assert done.exit_code == 0, done.output
    told = load_bundle(tmp_path / "b").manifest.recipe.export
    assert (told.qat, told.qat_epochs, told.qat_images, told.qat_batch_size) == (True, 2, 8, 4)
    assert (told.qat_seed, told.qat_learning_rate) == (5, 0.002)


def test_equalized_layers_are_printed(inputs: Path, tmp_path: Path) -> None:
    done = export(
        inputs, tmp_path / "b", "--cross-layer-equalization", "--bn-reestimation", "--no-qat"
    )
    assert done.exit_code == 0, done.output
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.recipe.export.equalization
    assert manifest.recipe.export.bn_reestimation
    assert "block2.squeeze.reduce > block2.squeeze.expand" in manifest.equalized
    assert "equalized: " in done.output
    assert "block2.squeeze.reduce > block2.squeeze.expand" in " ".join(done.output.split())


def test_training_and_what_it_would_overwrite_are_refused(inputs: Path, tmp_path: Path) -> None:
    for option in ("--bias-correction", "--bn-reestimation"):
        done = export(inputs, tmp_path / "b", "--qat", option)
        assert done.exit_code != 0
        assert "leave them out" in str(done.exception)
