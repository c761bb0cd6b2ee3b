"""A sweep's record as it may be published: file names stay, the folders of this machine do not."""

from __future__ import annotations

from pathlib import PurePath

from msgspec.structs import replace

from records.recipe import Recipe
from records.sweep import Sweep


def without_folders(sweep: Sweep) -> Sweep:
    """Return a record with every path shortened to its last part; figures and hashes stay.

    Args:
        sweep: a finished sweep.
    """
    attackers = {
        name: replace(attack, ood_source=_shortened(attack.ood_source))
        for name, attack in sweep.grid.attackers.items()
    }
    grid = replace(sweep.grid, base=_recipe(sweep.grid.base), attackers=attackers)
    data = replace(sweep.data, source=_shortened(sweep.data.source))
    return replace(sweep, grid=grid, data=data)


def _recipe(recipe: Recipe) -> Recipe:
    return replace(
        recipe,
        data=replace(recipe.data, source=_shortened(recipe.data.source)),
        model=replace(recipe.model, weights=PurePath(recipe.model.weights).name),
        attack=replace(recipe.attack, ood_source=_shortened(recipe.attack.ood_source)),
    )


def _shortened(source: str) -> str:
    """``npz:/somewhere/data.npz`` → ``npz:data.npz``; a source without a path as it is."""
    kind, colon, place = source.partition(":")
    return f"{kind}{colon}{PurePath(place).name}" if place else source
