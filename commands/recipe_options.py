"""Options that several verbs share: a recipe file, and overrides of its keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from records.errors import RecipeError
from records.recipe import Recipe, key_first, read_recipe

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def default_of(section: str, key: str) -> str:
    """Return how a help shows the default that a recipe has for a key."""
    value = getattr(getattr(Recipe(), section), key)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"  [default: {shown}]"


recipe_option = click.option(
    "--recipe",
    "recipe_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML recipe; the other options override its keys.",
)
_SOURCES = "photos | cifar100[:ROOT] | npz:FILE | folder:DIR"
_WEIGHTS = "scratch | imagenet | FILE"
_RECIPES = "  [default: the recipe's]"

data_option = click.option("--data", help=_SOURCES + default_of("data", "source"))
model_option = click.option(
    "--model", help="torchvision name or package.module:factory" + default_of("model", "name")
)
weights_option = click.option("--weights", help=_WEIGHTS + default_of("model", "weights"))
image_size_option = click.option(
    "--image-size",
    type=int,
    help="Side of the input in pixels" + default_of("model", "image_size"),
)
#: The same where a recipe must be given.
recipes_data_option = click.option("--data", help=_SOURCES + _RECIPES)
recipes_weights_option = click.option("--weights", help=_WEIGHTS + _RECIPES)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
force_option = click.option("--force", is_flag=True, help="Replace an existing result.")


def recipe_with(path: Path | None, **overrides: dict[str, Any]) -> Recipe:
    """Read a recipe (or take the defaults) and override keys, section by section.

    Args:
        path: a TOML file, or None for the defaults.
        overrides: section name → {key: value}; a value of None overrides nothing.

    Raises:
        RecipeError: the file or a value is not valid.
    """
    recipe = Recipe() if path is None else read_recipe(path)
    plain = msgspec.to_builtins(recipe)
    for section, values in overrides.items():
        plain[section] |= {key: value for key, value in values.items() if value is not None}
    try:
        return msgspec.convert(plain, type=Recipe)
    except (msgspec.ValidationError, ValueError) as error:
        raise RecipeError(f"an option or the recipe is not valid: {key_first(error)}") from error
