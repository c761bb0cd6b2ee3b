"""The FP32 edge that is built again: the bundle's own, or refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from baseline.model import build_model
from baseline.weights import save_weights
from benchmarks.rebuilt_edge import rebuilt_edge
from export.bundle import Bundle
from records.errors import InputError, ModelError, UnsupportedHereError
from records.recipe import ModelRecipe
from runtime_check.ort import OrtRuntime
from tests.benchmarks.torchvision_bundle import CLASSES, SIDE, Exported, torchvision_bundle


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return torchvision_bundle(tmp_path_factory.mktemp("rebuilt"))


@pytest.fixture
def images() -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(1).standard_normal((20, 3, SIDE, SIDE))
    return noise.astype(np.float32)


def rebuilt(
    exported: Exported, weights: Path, images: npt.NDArray[np.float32]
) -> torch.fx.GraphModule:
    fp32 = exported.bundle.artifact("edge_fp32_onnx")
    return rebuilt_edge(exported.bundle, fp32, weights, images)


def test_the_checkpoint_gives_the_bundle_s_edge(
    exported: Exported, images: npt.NDArray[np.float32]
) -> None:
    edge = rebuilt(exported, exported.weights, images)
    fp32 = exported.bundle.artifact("edge_fp32_onnx")
    expected = OrtRuntime().load(exported.bundle, fp32).run(images)
    with torch.inference_mode():
        found = edge(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std() > 0


def test_another_checkpoint_is_refused(
    exported: Exported, images: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_weights(build_model(ModelRecipe(image_size=SIDE), CLASSES, seed=1), other)
    with pytest.raises(InputError, match=r"does not compute what edge_fp32\.onnx"):
        rebuilt(exported, other, images)
    wider = tmp_path / "wider.safetensors"
    save_weights(build_model(ModelRecipe(image_size=SIDE), CLASSES + 1), wider)
    with pytest.raises(ModelError, match="does not fit"):
        rebuilt(exported, wider, images)


def test_another_cut_is_refused(exported: Exported, images: npt.NDArray[np.float32]) -> None:
    moved = msgspec.structs.replace(exported.bundle.manifest, split="features.2")
    bundle = Bundle(exported.bundle.folder, moved)
    with pytest.raises(InputError, match="does not compute"):
        rebuilt_edge(bundle, bundle.artifact("edge_fp32_onnx"), exported.weights, images)


def test_code_that_a_bundle_names_is_never_imported(
    exported: Exported, images: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    manifest = exported.bundle.manifest
    model = msgspec.structs.replace(manifest.recipe.model, name="no_such_module:build")
    recipe = msgspec.structs.replace(manifest.recipe, model=model)
    named = Bundle(exported.bundle.folder, msgspec.structs.replace(manifest, recipe=recipe))
    with pytest.raises(UnsupportedHereError, match="never imported"):
        rebuilt_edge(named, named.artifact("edge_fp32_onnx"), exported.weights, images)
