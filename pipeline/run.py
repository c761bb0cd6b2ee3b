"""``edgeveil run``: train → export → check → bench → attack → report, resumable at any moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from baseline.datasets import load_splits
from export.optional_formats import require_writers
from pipeline.folder_lock import LOCK_NAME, only_runner
from pipeline.stage import Stage, do_stage, finished_record
from pipeline.stages import Until, run_stages
from records import codec, files
from records.errors import OverwriteError
from records.progress import Progress, silent
from records.recipe import Recipe
from records.run import RunRecord, StageRecord

RECIPE_NAME = "recipe.json"


@dataclass(frozen=True)
class RunOptions:
    """How a run treats what is already in its folder.

    Attributes:
        replace: allow another recipe than the one that the folder was made with; stages
            whose inputs changed are done again and replace their results.
        until: the last stage of each split; a later run of the folder goes on from there.
    """

    replace: bool = False
    until: Until = "attack"


def run_recipe(
    recipe: Recipe, folder: Path, options: RunOptions, *, progress: Progress = silent
) -> RunRecord:
    """Do every stage of a recipe in order, skipping what is done and unchanged.

    Killed at any moment and started again, it resumes to the same records (timings aside):
    training from its last epoch, the attack from its cached features and decoders.

    Args:
        recipe: the run.
        folder: the run folder; made when missing.
        options: what may be replaced.
        progress: called by the stages.

    Returns:
        The stages' records; ``gates_passed`` is false when any gate of any stage failed.

    Raises:
        OverwriteError: the folder was made with another recipe, or is not a run folder.
        InputError: another process is running in the folder.
        UnsupportedHereError: a format of the recipe needs a package that is not installed.
        EdgeveilError: whatever a stage refuses.
    """
    # Before the training, which takes longest, rather than after it.
    require_writers(recipe.export.formats)
    folder.mkdir(parents=True, exist_ok=True)
    with only_runner(folder):
        _claim(recipe, folder, options)
        splits = load_splits(recipe.data)
        return _do_all(run_stages(recipe, folder, splits, progress, until=options.until), folder)


def _do_all(stages: Iterable[Stage], folder: Path) -> RunRecord:
    records: list[StageRecord] = []
    skipped: list[str] = []
    for stage in stages:
        record = finished_record(stage, folder)
        if record is None:
            record = do_stage(stage, folder)
        else:
            skipped.append(stage.name)
        records.append(record)
    return RunRecord(
        run=str(folder),
        stages=tuple(records),
        skipped=tuple(skipped),
        gates_passed=all(record.gates_passed for record in records),
        report=str(folder / "report" / "report.html"),
    )


def _claim(recipe: Recipe, folder: Path, options: RunOptions) -> None:
    """Tie the folder to its recipe, so that no other run silently replaces its results."""
    path = folder / RECIPE_NAME
    for place in (folder, *[p for p in folder.rglob("*") if p.is_dir()]):
        files.remove_partials(place)
    if not path.exists():
        if any(p for p in folder.iterdir() if p.name != LOCK_NAME) and not options.replace:
            raise OverwriteError(f"{folder} is not empty and holds no run; choose another --out")
        codec.write(path, recipe, replace=True)
    elif codec.read(path, Recipe) != recipe:
        if not options.replace:
            raise OverwriteError(
                f"{folder} was made with another recipe; choose another --out, or pass --replace "
                "to do again what changed"
            )
        codec.write(path, recipe, replace=True)
