"""``edgeveil train``: train or fine-tune the network that is to be split."""

from __future__ import annotations

from pathlib import Path

import click

from commands.export_extra import require_export_extra
from commands.progress_bars import progress_bars
from commands.recipe_options import (
    data_option,
    default_of,
    force_option,
    image_size_option,
    json_option,
    model_option,
    recipe_option,
    recipe_with,
    weights_option,
)
from records.counted import counted
from records.training import TrainingRecord


@click.command()
@recipe_option
@data_option
@click.option("--download", is_flag=True, default=None, help="Fetch CIFAR-100 when not there.")
@click.option(
    "--attacker-pool",
    type=click.Choice(["held-out", "train"]),
    help="Keep the attacker's images out of training, or train on all of them"
    + default_of("data", "attacker_pool"),
)
@model_option
@weights_option
@image_size_option
@click.option(
    "--epochs",
    type=int,
    help="0 keeps the given weights as they are" + default_of("train", "epochs"),
)
@click.option("--batch-size", type=int, help="Images a step" + default_of("train", "batch_size"))
@click.option(
    "--learning-rate",
    type=float,
    help="Peak of the one-cycle schedule" + default_of("train", "learning_rate"),
)
@click.option(
    "--cutmix",
    type=float,
    help="Share of the batches that are mixed, 0 to 1" + default_of("train", "cutmix"),
)
@click.option(
    "--seed",
    type=int,
    help="Of initialization, order, augmentation and dropout" + default_of("train", "seed"),
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    help="Processor" + default_of("train", "device"),
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The result's folder.")
@click.option("--resume", is_flag=True, help="Go on from the last epoch that was finished.")
@force_option
@json_option
def command(
    recipe_path: Path | None,
    data: str | None,
    download: bool | None,
    attacker_pool: str | None,
    model: str | None,
    weights: str | None,
    image_size: int | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    cutmix: float | None,
    seed: int | None,
    device: str | None,
    out: Path,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Train the network and write model.safetensors and training.json.

    A checkpoint follows every epoch: killed and started again with --resume, training ends with
    the same weights, bit for bit.
    """
    require_export_extra("train", ("torch", "torchvision", "safetensors", "skimage", "PIL"))
    recipe = recipe_with(
        recipe_path,
        data={"source": data, "download": download, "attacker_pool": attacker_pool},
        model={"name": model, "weights": weights, "image_size": image_size},
        train={
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "cutmix": cutmix,
            "seed": seed,
            "device": device,
        },
    )
    from baseline.datasets import load_splits
    from baseline.train import train

    splits = load_splits(recipe.data)
    with progress_bars() as progress:
        record = train(recipe, splits, out, resume=resume, replace=force, progress=progress)
    if as_json:
        from records import codec

        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print(record, out)


def _print(record: TrainingRecord, out: Path) -> None:
    accuracy = record.victim_accuracy
    click.echo(
        f"{record.model.name}, {record.parameters:,} parameters, "
        f"{counted(len(record.epochs), 'epoch')} on {counted(record.data.train.count, 'image')}, "
        f"{record.device}, {record.seconds:.0f} s"
    )
    click.echo(
        f"top-1 on {counted(accuracy.count, 'victim')} {accuracy.top1:.2%} "
        f"({accuracy.confidence:.0%} interval {accuracy.low:.2%} to {accuracy.high:.2%})"
    )
    click.echo(f"weights: {out / record.checkpoint_file}  {record.checkpoint_sha256[:16]}")
