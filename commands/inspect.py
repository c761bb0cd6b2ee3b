"""``edgeveil inspect``: list the valid cuts of a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.export_extra import require_export_extra
from commands.plain_table import plain_table
from commands.recipe_options import (
    image_size_option,
    json_option,
    model_option,
    recipe_option,
    recipe_with,
    weights_option,
)
from records.counted import counted

if TYPE_CHECKING:
    from records.cuts import CutList


@click.command()
@recipe_option
@model_option
@weights_option
@image_size_option
@click.option(
    "--num-classes",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="Width of the head; it does not move the cuts.",
)
@json_option
def command(
    recipe_path: Path | None,
    model: str | None,
    weights: str | None,
    image_size: int | None,
    num_classes: int,
    as_json: bool,
) -> None:
    """List where a network can be cut, and what each cut costs.

    A cut is named by the module that the edge ends with; the last one makes the whole network the
    edge, as `--split output` does. MACs are multiply-accumulates of one
    image in convolutions and linear layers; the boundary is what the edge sends.
    """
    require_export_extra("inspect", ("torch", "torchvision", "safetensors"))
    recipe = recipe_with(
        recipe_path, model={"name": model, "weights": weights, "image_size": image_size}
    ).model
    from baseline.model import build_model
    from baseline.split import list_cuts
    from records import codec
    from records.cuts import CutList

    shape = (3, recipe.image_size, recipe.image_size)
    cuts = CutList(
        model=recipe.name,
        input_shape=shape,
        cuts=list_cuts(build_model(recipe, num_classes), shape),
    )
    if as_json:
        click.echo(codec.encode(cuts).decode(), nl=False)
    else:
        _print_table(cuts)


def _print_table(cuts: CutList) -> None:
    from rich.console import Console

    size = "×".join(str(n) for n in cuts.input_shape)
    table = plain_table(f"{cuts.model}  input {size}  {counted(len(cuts.cuts), 'valid cut')}")
    table.add_column("split", no_wrap=True)
    for column in ("params", "MACs", "share", "boundary", "FP32\nbytes", "uint8\nbytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for cut in cuts.cuts:
        table.add_row(
            f"{cut.name} (whole)" if cut.whole_network else cut.name,
            f"{cut.edge_parameters:,}",
            f"{cut.edge_macs:,}",
            f"{cut.edge_share_macs:.1%}",
            "×".join(str(n) for n in cut.boundary_shape),
            f"{cut.boundary_bytes_fp32:,}",
            f"{cut.boundary_bytes_uint8:,}",
        )
    console = Console()
    if not console.is_terminal:
        # rich assumes 80 columns for a pipe, and cuts numbers.
        console = Console(width=120)
    console.print(table)
    console.print("share: of all MACs. bytes: of the boundary of one image")
