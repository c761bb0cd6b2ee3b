"""The images of a check: the manifest's victim set, proven by its hash, or another set."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from baseline.datasets import load_splits
from baseline.images import ImageSet
from records.errors import DataError, InputError
from records.hashing import sha256_array
from records.manifest import Manifest
from records.recipe import DataRecipe


@dataclass(frozen=True)
class Victims:
    """The images of a check and what they are.

    ``source``: as the recipe names it. ``first_of``: size of the set that ``images`` begins, None
    when they are all of it.
    """

    images: ImageSet
    source: str
    first_of: int | None = None


def victims_for(
    manifest: Manifest, *, source: str | None = None, limit: int | None = None
) -> Victims:
    """Load the victim set of a bundle, or the victims of another source.

    Args:
        manifest: names the source and the set's SHA-256.
        source: another source (as in a recipe); None takes the manifest's and proves the hash.
        limit: keep the first so many images.

    Returns:
        The images, uint8 (N, H, W, 3), and what they are.

    Raises:
        DataError: the source is missing, its victims are not those of the manifest, or
            another source has other classes, so that top-1 would mean nothing.
        InputError: ``source`` is not a source, or ``limit`` is below 1.
    """
    recipe = manifest.recipe.data if source is None else _with_source(manifest, source)
    # A bundle is untrusted: it may name images that are here, not make this machine fetch any.
    recipe = msgspec.structs.replace(recipe, download=False)
    splits = load_splits(recipe)
    victims = splits.victim
    if source is None and set_sha256(victims) != manifest.data.victim.sha256:
        raise DataError(
            f"the victims of {recipe.source} are not those that the bundle was made with (SHA-256 "
            f"{manifest.data.victim.sha256[:16]}…); give the right data, or --data to use others"
        )
    if splits.classes != manifest.data.classes:
        raise DataError(
            f"{recipe.source} has {len(splits.classes)} classes that are not the bundle's "
            f"{len(manifest.data.classes)}: top-1 would mean nothing; use the same kind of data"
        )
    return _first(Victims(victims, recipe.source), limit)


def set_sha256(images: ImageSet) -> str:
    """Return the SHA-256 over images and labels that a manifest records for an image set."""
    return sha256_array(images.images, images.labels)


def _with_source(manifest: Manifest, source: str) -> DataRecipe:
    plain = msgspec.to_builtins(manifest.recipe.data) | {"source": source}
    try:
        return msgspec.convert(plain, type=DataRecipe)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"--data {source}: {error}") from error


def _first(victims: Victims, limit: int | None) -> Victims:
    if limit is None or limit >= len(victims.images):
        return victims
    if limit < 1:
        raise InputError("--limit must be at least 1")
    kept = victims.images.take(np.arange(limit))
    return Victims(kept, victims.source, first_of=len(victims.images))
