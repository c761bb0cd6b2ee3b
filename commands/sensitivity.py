"""``edgeveil sensitivity``: which layers the quantization of an edge hurts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.export_extra import require_export_extra
from commands.progress_bars import progress_bars
from commands.quantizer_options import range_options
from commands.recipe_options import (
    data_option,
    default_of,
    force_option,
    image_size_option,
    json_option,
    model_option,
    recipe_option,
    recipe_with,
)
from records.counted import counted

if TYPE_CHECKING:
    from records.sensitivity import SensitivityRecord


@click.command()
@recipe_option
@data_option
@model_option
@click.option(
    "--weights",
    help="Trained weights: safetensors, or a torch checkpoint  [required here or in recipe]",
)
@image_size_option
@click.option(
    "--split",
    help="The edge ends with this module's output; output: the whole network"
    + default_of("export", "splits"),
)
@range_options
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Measure on the first N calibration images.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Layers in the table; the record has all.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the record.")
@force_option
@json_option
def command(
    recipe_path: Path | None,
    data: str | None,
    model: str | None,
    weights: str | None,
    image_size: int | None,
    split: str | None,
    limit: int,
    rows: int,
    out: Path | None,
    force: bool,
    as_json: bool,
    **ranges: Any,
) -> None:
    """Quantize every layer of the edge alone and list the most harmful first.

    For each: the signal-to-noise ratio of its output, and how far the network's answers move. A
    layer that costs too much can stay in float: `edgeveil export --float-layer NAME`. Measured on
    calibration images, never on victims.
    """
    require_export_extra("sensitivity")
    recipe = recipe_with(
        recipe_path,
        data={"source": data},
        model={"name": model, "weights": weights, "image_size": image_size},
        export={
            "splits": None if split is None else [split],
            **ranges,
        },
    )
    from pipeline.sensitivity import sensitivity_from_weights
    from records import codec
    from records.errors import OverwriteError

    if out is not None and out.exists() and not force:
        raise OverwriteError(f"{out} already exists; add --force or choose another --out")
    with progress_bars() as progress:
        record = sensitivity_from_weights(recipe, images=limit, progress=progress)
    if out is not None:
        codec.write(out, record, replace=force)
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print_table(record, rows)


def _print_table(record: SensitivityRecord, rows: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"split {record.split}: each layer quantized alone", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for column in ("weights", "SQNR, dB", "KL, nats", "same top-1"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in record.layers[:rows]:
        table.add_row(
            layer.name if layer.kind != "input" else f"{layer.name} (input)",
            "yes" if layer.quantizes_weights else "",
            "equal" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}",
            f"{layer.loss.kl_nats:.5f}",
            f"{layer.loss.top1_agreement:.2%}",
        )
    console = Console()
    console.print(table)
    every = record.everything
    console.print(
        f"{min(rows, len(record.layers))} of {counted(len(record.layers), 'layer')}, "
        f"{counted(record.images, 'image')}; "
        f"everything quantized: KL {every.kl_nats:.5f} nats, {every.top1_agreement:.2%} same top-1",
        soft_wrap=True,
    )
