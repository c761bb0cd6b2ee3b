"""A whole bundle of the tiny network in seconds, and ways to break one artifact of it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
import torch

from baseline.datasets import ImageSplits, load_splits
from export.build import export_bundle
from export.bundle import Bundle, load_bundle, seal
from records import codec
from records.hashing import sha256_file
from records.manifest import MANIFEST_NAME, Artifact
from records.recipe import CheckRecipe, DataRecipe, ExportRecipe, ModelRecipe, Recipe

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

SPLIT = "block2"
#: Batches smaller than the victim set, and no divisor of it. The network is untrained, so its INT8
#: loses about 11 points for good reasons.
CHECK = CheckRecipe(batch_size=50, bootstrap_resamples=200, accuracy_drop_points=20.0)


def tiny_recipe(source: Path) -> Recipe:
    """Return the recipe of the tiny network on the images of an npz file."""
    return Recipe(
        data=DataRecipe(source=f"npz:{source}", train=16, calibration=64, attacker=16),
        model=ModelRecipe(
            name="tests.tiny_network:build", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        ),
        export=ExportRecipe(splits=(SPLIT,)),
        check=CHECK,
    )


def write_images(path: Path, model: nn.Module, images: npt.NDArray[np.uint8]) -> None:
    """Write an npz source: 96 train images, the rest to test; labels are the network's own."""
    labels = _logits(model, images).argmax(1).numpy()
    arrays = {"train_x": images[:96], "train_y": labels[:96]}
    arrays |= {"test_x": images[96:], "test_y": labels[96:]}
    arrays |= {"classes": np.array([f"class {k}" for k in range(8)])}
    np.savez(path, allow_pickle=False, **arrays)


def tiny_bundle(
    folder: Path,
    model: nn.Module,
    images: npt.NDArray[np.uint8],
    bits: Any = 8,
    formats: Any = ("ptl", "onnx"),
) -> tuple[Bundle, ImageSplits]:
    """Export the tiny network into ``folder/bundle``; the images are in ``folder/data.npz``.

    ``bits``: of the boundary. ``formats``: of the recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_images(folder / "data.npz", model, images)
    recipe = tiny_recipe(folder / "data.npz")
    export = msgspec.structs.replace(recipe.export, boundary_bits=bits, formats=formats)
    recipe = msgspec.structs.replace(recipe, export=export)
    splits = load_splits(recipe.data)
    export_bundle(model, recipe, splits, SPLIT, folder / "bundle", checkpoint_sha256=64 * "0")
    return load_bundle(folder / "bundle"), splits


def with_varied_classes(model: nn.Module, images: npt.NDArray[np.uint8]) -> nn.Module:
    """Return a copy whose logits have mean 0 and deviation 1, so that all classes occur.

    The untrained network gives every image the same class, and no fault could change its top-1.
    """
    varied = copy.deepcopy(model)
    logits = _logits(varied, images)
    last = varied.classifier
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight /= logits.std(0)[:, None]
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
    return varied


def _logits(model: nn.Module, images: npt.NDArray[np.uint8]) -> torch.Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    with torch.inference_mode():
        logits: torch.Tensor = model(x)
    return logits


def wrong_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a network with one channel of every convolution's weights negated."""
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        for module in wrong.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight[0] *= -1
    return wrong


def replaced(bundle: Bundle, folder: Path, name: str, source: Path) -> Bundle:
    """Copy a bundle and put another file in the place of one artifact, sealed again.

    The copy is not verified: the check has to find by itself what is wrong with it.
    """
    shutil.copytree(bundle.folder, folder)
    shutil.copyfile(source, folder / bundle.artifact(name).file)
    return resealed(bundle, folder)


def edited_onnx(
    bundle: Bundle, folder: Path, name: str, edit: Callable[[onnx.ModelProto], None]
) -> Bundle:
    """Copy a bundle with one ONNX artifact edited, sealed again and not verified."""
    shutil.copytree(bundle.folder, folder)
    path = folder / bundle.artifact(name).file
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)
    return resealed(bundle, folder)


def resealed(bundle: Bundle, folder: Path, **changes: Any) -> Bundle:
    """Return the bundle in ``folder`` with hashes and sizes of what is there, and other fields."""

    def measured(artifact: Artifact) -> Artifact:
        path = folder / artifact.file
        return msgspec.structs.replace(artifact, sha256=sha256_file(path), size=path.stat().st_size)

    fields = msgspec.structs.asdict(bundle.manifest) | changes
    fields.pop("bundle_id")
    fields["artifacts"] = tuple(measured(a) for a in bundle.manifest.artifacts)
    manifest = seal(**fields)
    codec.write(folder / MANIFEST_NAME, manifest, replace=True)
    return Bundle(folder=folder, manifest=manifest)
