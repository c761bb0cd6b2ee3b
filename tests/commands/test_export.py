"""``edgeveil export``: from the options to the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import onnx
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from benchmarks.size import artifact_sizes, shipped
from commands.export import command
from commands.sensitivity import command as sensitivity
from export.bundle import load_bundle
from records.errors import ExportError, InputError, OverwriteError
from runtime_check.check import check_bundle
from runtime_check.victims import victims_for
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
    arguments += ["--weights", str(inputs / "model.safetensors")]
    arguments += [] if "--split" in options else ["--split", SPLIT]
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


def test_a_float_layer_reaches_the_manifest_and_is_printed(inputs: Path, tmp_path: Path) -> None:
    done = export(inputs, tmp_path / "b", "--float-layer", "stem", "--float-layer", "add")
    assert done.exit_code == 0, done.output
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.recipe.export.float_layers == ("stem", "add")
    assert {"stem_0_0", "stem_0_1", "add"} <= set(manifest.float_nodes)
    assert "nodes left in float: stem_0_0, stem_0_1" in " ".join(done.output.split())
    weights = {a.name: a.weight_bytes for a in manifest.artifacts}
    assert export(inputs, tmp_path / "plain").exit_code == 0
    plain = {a.name: a.weight_bytes for a in load_bundle(tmp_path / "plain").manifest.artifacts}
    # Three of four bytes of the stem's 8·3·3·3 weights are not saved.
    assert weights["edge_int8_onnx"] == plain["edge_int8_onnx"] + 3 * 216
    assert weights["edge_fp32_onnx"] == plain["edge_fp32_onnx"]
    record = check_bundle(load_bundle(tmp_path / "b"), victims_for(manifest))
    # The stem's convolution is left in float on purpose: six others must be integers, and are.
    assert {(f.convolutions, f.fused) for f in record.fusion} == {(6, 6)}
    assert not [g for g in record.gates if not g.passed and g.name == "convolutions_fused"]


@pytest.mark.parametrize("name", ["stemm", "block3", "stem.1"])
def test_a_float_layer_that_is_not_quantized_is_refused(
    inputs: Path, tmp_path: Path, name: str
) -> None:
    done = export(inputs, tmp_path / "b", "--float-layer", name)
    assert isinstance(done.exception, ExportError)
    assert f"float layer {name!r}" in str(done.exception)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("split", ["classifier", "output"])
def test_the_whole_network_is_exported_and_checked(
    inputs: Path, tmp_path: Path, split: str
) -> None:
    done = export(inputs, tmp_path / "b", "--split", split)
    assert done.exit_code == 0, done.output
    bundle = load_bundle(tmp_path / "b")
    manifest = bundle.manifest
    assert manifest.split == split
    assert manifest.boundary.shape == manifest.output.shape == manifest.wire.shape == (8,)
    server = onnx.load_model(bundle.path(bundle.artifact("server_fp32_onnx")))
    assert [n.op_type for n in server.graph.node] == ["Identity"]
    assert bundle.artifact("server_fp32_onnx").weight_bytes == 0
    record = check_bundle(bundle, victims_for(manifest))
    assert {g.name for g in record.gates if not g.passed} <= {
        "top1_agreement",
        "accuracy_drop_points",
    }
    lite = next(a for a in record.artifacts if a.artifact == "edge_int8_lite")
    assert lite.lsb is not None
    assert lite.lsb.max_lsb == 0
    assert lite.accuracy.drop_points is not None
    sizes = {size.artifact: size.file_bytes for size in artifact_sizes(shipped(bundle))}
    assert sizes["server_fp32_onnx"] < 300


def test_an_unknown_format_is_named_with_the_known_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--formats", "ptl, coreml", "--out", str(tmp_path / "b")])
    assert result.exit_code != 0
    assert "coreml: formats are ptl, onnx, ort, pte, tflite" in result.output
    assert not (tmp_path / "b").exists()


def test_an_existing_folder_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "b")])
    assert isinstance(result.exception, OverwriteError)
    assert "--force" in str(result.exception)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((), "weights 'scratch' is where a training starts, no file; give --weights FILE, or "),
        (("--weights", "scratch"), "edgeveil train --out DIR writes DIR/model.safetensors"),
        (("--weights", "imagenet"), "edgeveil train --weights imagenet --out DIR writes"),
        (("--weights", "nowhere.safetensors"), "weights 'nowhere.safetensors' is not a file; give"),
    ],
)
@pytest.mark.parametrize("verb", [command, sensitivity])
def test_weights_that_are_no_file_are_answered_with_the_way_to_them(
    tmp_path: Path, verb: click.Command, given: tuple[str, ...], says: str
) -> None:
    out = str(tmp_path / "b")
    done = CliRunner().invoke(verb, [*given, "--split", "features.3", "--out", out])
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
    assert not (tmp_path / "b").exists()
