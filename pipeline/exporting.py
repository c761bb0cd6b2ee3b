"""Export outside a run: load the weights that a recipe names and write one bundle a split."""

from __future__ import annotations

from pathlib import Path

from baseline.datasets import load_splits
from baseline.model import build_model
from export.build import export_bundle
from export.optional_formats import require_writers
from records.errors import InputError
from records.hashing import sha256_file
from records.manifest import Manifest
from records.progress import Progress, silent
from records.recipe import Recipe
from records.training import WEIGHTS_NAME

_STARTS = ("scratch", "imagenet")


def export_from_weights(
    recipe: Recipe, folder: Path, *, replace: bool = False, progress: Progress = silent
) -> Manifest:
    """Export the network whose weights file the recipe names, cut at its only split.

    Args:
        recipe: ``model.weights`` must be a file, ``export.splits`` a single module path.
        folder: the bundle's folder.
        replace: allow an existing bundle to be replaced.
        progress: called as the artifacts are written.

    Returns:
        The sealed manifest.

    Raises:
        InputError: the weights are not a file, or several splits are named.
        UnsupportedHereError: a format of the recipe needs a package that is not installed.
        EdgeveilError: whatever the data, model, split or export refuses.
    """
    require_writers(recipe.export.formats)
    weights, split = trained_weights(recipe), only_split(recipe)
    splits = load_splits(recipe.data)
    return export_bundle(
        build_model(recipe.model, len(splits.classes)),
        recipe,
        splits,
        split,
        folder,
        checkpoint_sha256=sha256_file(weights),
        replace=replace,
        progress=progress,
    )


def trained_weights(recipe: Recipe) -> Path:
    """Return the weights file that a recipe names.

    Raises:
        InputError: it names none, or a word that only training makes a file of.
    """
    named = recipe.model.weights
    weights = Path(named)
    if named in _STARTS or not weights.is_file():
        reason = "is where a training starts, no file" if named in _STARTS else "is not a file"
        option = " --weights imagenet" if named == "imagenet" else ""
        raise InputError(
            f"weights {named!r} {reason}; give --weights FILE, or train first: edgeveil "
            f"train{option} --out DIR writes DIR/{WEIGHTS_NAME}"
        )
    return weights


def only_split(recipe: Recipe) -> str:
    """Return a recipe's split.

    Raises:
        InputError: it names several.
    """
    if len(recipe.export.splits) != 1:
        raise InputError("one bundle holds one split; pass --split NAME, or use edgeveil run")
    return recipe.export.splits[0]
