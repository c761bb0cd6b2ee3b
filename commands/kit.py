"""``edgeveil kit``: a bundle as one archive that a Raspberry Pi can check and measure."""

from __future__ import annotations

from pathlib import Path

import click

from commands.export_extra import require_export_extra
from commands.progress_bars import progress_bars
from commands.recipe_options import force_option, json_option
from records.kit import KIT_VICTIMS


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The archive  [default: edgeveil-kit-SPLIT-ID.tar.gz beside the bundle's folder]",
)
@click.option("--data", help="Other images than the manifest's: photos | npz:FILE | …")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=KIT_VICTIMS,
    show_default=True,
    help="Victims that the kit carries, the first of the set.",
)
@force_option
@json_option
def command(
    bundle_path: Path, out: Path | None, data: str | None, limit: int, force: bool, as_json: bool
) -> None:
    """Pack BUNDLE, its expected outputs and a torch-free program into one archive.

    On aarch64 Linux three commands unpack it, install pinned packages and run it: it holds the
    outputs of .onnx, .ort and .tflite artifacts against those of eager INT8 and of this host, and
    measures latencies. The archive carries victim images. The same bundle gives the same bytes.
    """
    require_export_extra("kit", ("torch", "torchvision", "onnx", "safetensors"))
    from benchmarks.kit.build import build_kit, folder_name
    from export.bundle import load_bundle
    from records import codec
    from records.errors import OverwriteError
    from runtime_check.victims import victims_for

    bundle = load_bundle(bundle_path)
    path = out
    if path is None:
        path = bundle_path.resolve().parent / f"{folder_name(bundle)}.tar.gz"
    if path.exists() and not force:
        raise OverwriteError(f"{path} already exists; add --force or choose another --out")
    victims = victims_for(bundle.manifest, source=data, limit=limit)
    with progress_bars() as progress:
        kit = build_kit(bundle, victims, path, replace=force, progress=progress)
    if as_json:
        click.echo(codec.encode(kit.file).decode(), nl=False)
        return
    click.echo(f"kit: {path}, {kit.file.size:,} bytes, SHA-256 {kit.file.sha256}")
    click.echo("on the device:")
    unpack, *others = kit.commands
    # The archive's one folder has its own name, whatever the file is called.
    for line in (unpack.replace(f"{folder_name(bundle)}.tar.gz", path.name), *others):
        click.echo(f"  {line}")
