"""How to make a run again: commands with their limits, and the recipes that they read."""

from __future__ import annotations

from collections.abc import Iterator

from records.recipe import Recipe, TrainRecipe
from records.training import TrainingRecord
from report.document import Block, Code, Heading, Paragraph, Section
from report.load import RunRecords
from report.recipe_text import recipe_toml
from report.steps import (
    RUN_RECIPE,
    TRAIN_RECIPE,
    commands,
    made_by,
    recipe_file,
    stepped_recipe,
    trained_here,
)

_SAME = (
    "The same recipe on the same machine with the same versions and thread count gives the same "
    "records, timings aside."
)
_BUNDLE_ID = (
    "Bundle ids may differ all the same: they cover the path of the weights, and the bytes of .ort "
    "files, whose parts ONNX Runtime writes in no fixed order."
)


def reproduce_section(run: RunRecords) -> Section:
    """Return the commands that do again what the records say, and the recipes as TOML.

    Where ``edgeveil run`` would do something else (weights that were given, limits of a command
    line), the single steps are printed instead.
    """
    if run.recipe is None:
        blocks: tuple[Block, ...] = (Paragraph("No bundle, so no recipe is recorded.", "muted"),)
    elif made_by(run) == "steps":
        blocks = tuple(_by_steps(run))
    else:
        blocks = tuple(_by_run(run, run.recipe))
    return Section("reproduce", "How to reproduce", blocks)


def _by_run(run: RunRecords, recipe: Recipe) -> Iterator[Block]:
    yield Paragraph(f"Save the recipe below as {RUN_RECIPE}, then:")
    yield Code("\n".join(commands(run)), "sh")
    yield Paragraph(_SAME)
    yield Heading("Recipe")
    yield Code(recipe_toml(recipe), "toml")


def _by_steps(run: RunRecords) -> Iterator[Block]:
    recipes = tuple(_recipes(run))
    names = " and ".join(name for name, _ in recipes)
    what = "recipe" if len(recipes) == 1 else "recipes"
    yield Paragraph(f"Made step by step. Save the {what} below as {names}, then:")
    yield Code("\n".join(commands(run)), "sh")
    yield from _given_weights(run)
    yield Paragraph(f"{_SAME} {_BUNDLE_ID}")
    for name, toml in recipes:
        yield Heading(name, code=True)
        yield Code(toml, "toml")


def _recipes(run: RunRecords) -> Iterator[tuple[str, str]]:
    """Yield file name and text of each recipe, without the sections that its command ignores."""
    if run.training is not None:
        yield TRAIN_RECIPE, _training_toml(run.training)
    for split in run.splits:
        recipe = stepped_recipe(run, split)
        if recipe is not None:
            # Sealed with the rest, so only a training of the defaults' settings goes unsaid.
            ignored = ("train",) if recipe.train == TrainRecipe() else ()
            yield recipe_file(split), recipe_toml(recipe, leave_out=ignored)


def _training_toml(training: TrainingRecord) -> str:
    recipe = Recipe(data=training.data_recipe, model=training.model, train=training.train)
    return recipe_toml(recipe, leave_out=("name", "export", "check", "bench", "attack"))


def _given_weights(run: RunRecords) -> Iterator[Block]:
    """Name the weights that no record here explains."""
    training = run.training
    if training is not None and training.initial_sha256 is not None:
        yield Paragraph(
            f"The training began from {training.model.weights}, SHA-256 {training.initial_sha256}."
        )
    for split in run.splits:
        manifest = split.manifest
        if manifest is not None and not trained_here(training, manifest):
            yield Paragraph(
                f"{split.split} was exported from {manifest.recipe.model.weights}, SHA-256 "
                f"{manifest.checkpoint_sha256}; how those weights were trained is not recorded "
                "here.",
                "warn",
            )
