"""A bundle of one of torchvision's networks, and the checkpoint that it was exported from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baseline.datasets import load_splits
from baseline.model import build_model
from baseline.weights import save_weights
from export.build import export_bundle
from export.bundle import Bundle, load_bundle
from records.hashing import sha256_file
from records.recipe import DataRecipe, ExportRecipe, ModelRecipe, Recipe

SIDE = 32
SPLIT = "features.1"
CLASSES = 4


@dataclass(frozen=True)
class Exported:
    """A verified bundle; ``weights``: its network's checkpoint, ``data``: its source."""

    bundle: Bundle
    weights: Path
    data: str


def torchvision_bundle(folder: Path, formats: Any = ("ptl", "onnx")) -> Exported:
    """Export an untrained MobileNetV3-Small, cut after its second stage, into ``folder``."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        f"{part}_{kind}": value
        for part, count in (("train", 60), ("test", 8))
        for kind, value in (
            ("x", rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)),
            ("y", np.arange(count, dtype=np.int64) % CLASSES),
        )
    }
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    data = f"npz:{folder / 'data.npz'}"
    recipe = Recipe(
        data=DataRecipe(source=data, native_size=SIDE, train=16, calibration=12, attacker=16),
        model=ModelRecipe(image_size=SIDE),
        export=ExportRecipe(splits=(SPLIT,), formats=formats),
    )
    splits = load_splits(recipe.data)
    model = build_model(recipe.model, len(splits.record.classes))
    weights = folder / "model.safetensors"
    save_weights(model, weights)
    export_bundle(
        model,
        recipe,
        splits,
        SPLIT,
        folder / "bundle",
        checkpoint_sha256=sha256_file(weights),
    )
    return Exported(load_bundle(folder / "bundle"), weights, data)
