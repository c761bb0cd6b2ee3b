"""``edgeveil run``: every stage of a recipe, skipped when unchanged, resumed when cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.export_extra import require_export_extra
from commands.progress_bars import progress_bars
from commands.recipe_options import (
    json_option,
    recipe_with,
    recipes_data_option,
    recipes_weights_option,
)

if TYPE_CHECKING:
    from pipeline.stages import Until
    from records.run import RunRecord


@click.command()
@click.argument("recipe_path", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder  [default: runs/<recipe's name>]"
)
@click.option("--replace", is_flag=True, help="Accept a changed recipe: do again what it changes.")
@recipes_data_option
@recipes_weights_option
@click.option(
    "--epochs",
    type=click.IntRange(min=0),
    help="0 keeps the given weights  [default: the recipe's]",
)
@click.option(
    "--until",
    type=click.Choice(["export", "check", "bench", "attack"]),
    default="attack",
    show_default=True,
    help="The last stage of each split.",
)
@json_option
def command(
    recipe_path: Path,
    out: Path | None,
    replace: bool,
    data: str | None,
    weights: str | None,
    epochs: int | None,
    until: Until,
    as_json: bool,
) -> None:
    """Run train, export, check, bench, attack and report of RECIPE.toml.

    A stage whose inputs' hashes are unchanged is skipped. Killed and started again, the run
    resumes to the same result. Exits 2 when a gate failed; the evidence stays in the folder.
    """
    require_export_extra("run")
    from records import codec
    from records.errors import GateFailedError

    # Read before the slow imports: a bad recipe answers at once.
    recipe = recipe_with(
        recipe_path,
        data={"source": data},
        model={"weights": weights},
        train={"epochs": epochs},
    )
    from pipeline.run import RunOptions, run_recipe

    folder = out if out is not None else Path("runs") / recipe.name
    with progress_bars() as progress:
        record = run_recipe(
            recipe, folder, RunOptions(replace=replace, until=until), progress=progress
        )
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print_summary(folder, record)
    if not record.gates_passed:
        failed = ", ".join(stage.stage for stage in record.stages if not stage.gates_passed)
        raise GateFailedError(f"gates failed in {failed}; see {record.report}")


def _print_summary(folder: Path, record: RunRecord) -> None:
    from rich.console import Console

    from report.summary import summary_notes, summary_table

    console = Console()
    if not console.is_terminal:
        # rich assumes 80 columns for a pipe or a log file.
        console = Console(width=100)
    console.print(summary_table(folder))
    for note in summary_notes(folder):
        console.print(note, markup=False)
    console.print(
        "p50: median latency of one image on the fewest threads; INVALID: the machine was too "
        "noisy to say. A0: decoder of FP32 features, unchanged; A1: trained on the artifact's own "
        "outputs; high dB: the picture leaks. DENIED: INT8 hides less than the margin."
    )
    done = len(record.stages) - len(record.skipped)
    console.print(f"stages: {done} done, {len(record.skipped)} unchanged and skipped")
    console.print(f"report: {record.report}")
