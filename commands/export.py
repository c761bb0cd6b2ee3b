"""``edgeveil export``: quantize the edge head and write a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from commands.export_extra import require_export_extra
from commands.listed_option import listed_of
from commands.plain_table import plain_table
from commands.progress_bars import progress_bars
from commands.quantizer_options import quantizer_options, range_options
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
from records.manifest import Manifest
from records.recipe import ExportFormat


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
    "--bias-correction/--no-bias-correction",
    default=None,
    help="Take back the mean error of every channel  [default: no]",
)
@click.option(
    "--boundary-bits",
    type=click.Choice(["8", "6", "4", "3", "2", "1"]),
    help="Bits of each value that is sent; weights keep 8  [default: 8]",
)
@quantizer_options
@click.option("--opset", type=int, help="ONNX opset" + default_of("export", "opset"))
@click.option(
    "--formats",
    metavar="F,…",
    callback=listed_of(get_args(ExportFormat), "formats"),
    help="ptl,onnx and any of ort, pte (ExecuTorch), tflite (LiteRT)  [default: ptl,onnx]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
@force_option
@json_option
def command(
    recipe_path: Path | None,
    data: str | None,
    model: str | None,
    weights: str | None,
    image_size: int | None,
    split: str | None,
    bias_correction: bool | None,
    boundary_bits: str | None,
    opset: int | None,
    formats: list[str] | None,
    out: Path,
    force: bool,
    as_json: bool,
    **quantizer: Any,
) -> None:
    """Quantize the edge head and write a bundle: .ptl, QDQ ONNX, server half, manifest.

    --formats adds the mobile .ort file, ExecuTorch's .pte and LiteRT's .tflite.

    The scales and zero points of every artifact are those of one FX calibration. The bundle
    appears whole and verified, or not at all.
    """
    require_export_extra("export")
    from records.errors import OverwriteError

    if not force and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OverwriteError(f"{out} already exists; add --force or choose another --out")
    recipe = recipe_with(
        recipe_path,
        data={"source": data},
        model={"name": model, "weights": weights, "image_size": image_size},
        export={
            "splits": None if split is None else [split],
            "bias_correction": bias_correction,
            "boundary_bits": None if boundary_bits is None else int(boundary_bits),
            "opset": opset,
            "formats": formats,
            **quantizer,
        },
    )
    from pipeline.exporting import export_from_weights

    with progress_bars() as progress:
        manifest = export_from_weights(recipe, out, replace=force, progress=progress)
    if as_json:
        from records import codec

        click.echo(codec.encode(manifest).decode(), nl=False)
    else:
        _print_table(manifest, out)


def _print_table(manifest: Manifest, out: Path) -> None:
    from rich.console import Console

    table = plain_table(f"{out}  split {manifest.split}  boundary {manifest.boundary.shape}")
    for column in ("artifact", "format", "type", "ends with"):
        table.add_column(column, no_wrap=True)
    for column in ("weights,\nbytes", "file,\nbytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for artifact in manifest.artifacts:
        table.add_row(
            artifact.name,
            artifact.format,
            artifact.precision,
            f"{artifact.boundary} {artifact.output.dtype}",
            f"{artifact.weight_bytes:,}",
            f"{artifact.size:,}",
        )
    console = Console()
    console.print(table)
    wire = manifest.wire
    console.print(
        f"sent: {wire.shape} at {wire.bits} bit{'s' if wire.bits > 1 else ''} a value = "
        f"{wire.packed_bytes:,} bytes per image packed (docs/wire-format.md)"
    )
    if manifest.recipe.export.equalization:
        console.print(
            f"equalized: {'; '.join(manifest.equalized) or 'no layers that a ReLU joins'}"
        )
    left = ", ".join(manifest.float_nodes) or "none"
    console.print(f"nodes left in float: {left}   bundle {manifest.bundle_id[:16]}")
