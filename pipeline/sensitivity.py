"""The sensitivity sweep outside a run: from the weights that a recipe names to its record."""

from __future__ import annotations

import torch

from baseline.datasets import load_splits
from baseline.model import build_model
from baseline.split import split_network
from export.build import calibration_batches
from export.quantize import calibrated_edge
from export.sensitivity import measure_sensitivity
from pipeline.exporting import only_split, trained_weights
from records.hashing import sha256_file
from records.progress import Progress, silent
from records.recipe import Recipe
from records.sensitivity import SensitivityRecord


def sensitivity_from_weights(
    recipe: Recipe, *, images: int, progress: Progress = silent
) -> SensitivityRecord:
    """Quantize every layer of a recipe's edge alone and record what it costs.

    Ranges are found on the whole calibration set, as ``export`` finds them; victims are not looked
    at, so what is decided by the record cannot have been fitted to them.

    Args:
        recipe: ``model.weights`` must be a file, ``export.splits`` a single module path.
        images: the losses are measured on the first so many calibration images.
        progress: called once a layer.

    Raises:
        InputError: the weights are not a file, or several splits are named.
        EdgeveilError: whatever the data, model, split or quantization refuses.
    """
    weights, split = trained_weights(recipe), only_split(recipe)
    splits = load_splits(recipe.data)
    halves = split_network(build_model(recipe.model, len(splits.classes)), split)
    batches = calibration_batches(recipe, splits)
    prepared = calibrated_edge(halves.edge, batches, recipe.export, halves.server)
    shown = torch.cat(batches)[:images]
    everything, layers = measure_sensitivity(prepared, halves.server, shown, progress=progress)
    return SensitivityRecord(
        split=split,
        recipe=recipe,
        checkpoint_sha256=sha256_file(weights),
        images=len(shown),
        images_sha256=splits.record.calibration.sha256,
        everything=everything,
        layers=layers,
    )
