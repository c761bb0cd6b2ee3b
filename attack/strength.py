"""How strong the decoder is for its CPU time: beside a plain one on the same features.

Run ``python -m attack.strength --help``. It stands here and not in ``benchmarks``, which neither
imports the attack nor needs torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from attack.cache import TensorCache
from attack.decoder import as_maps
from attack.features import FeatureTable, Target, target_of
from attack.inversion import DecoderFamily, choose
from attack.metrics import Images, Scores, as_unit_images, score
from attack.training import reconstruct, torch_threads
from baseline.datasets import load_splits
from baseline.images import ImageSet
from export.bundle import load_bundle
from records.errors import InputError
from records.progress import silent
from records.recipe import AttackRecipe

_PLAIN_WIDTH = 128
_PLAIN_RATE = 2e-3
_PLAIN_BATCH = 256
_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Strength:
    """One decoder's result.

    Attributes:
        name: of the decoder.
        scores: of every victim.
        parameters: weights and biases.
        seconds: wall clock of fitting.
        cpu_seconds: of all threads.
    """

    name: str
    scores: Scores
    parameters: int
    seconds: float
    cpu_seconds: float


def plain_decoder(channels: int, side: int, image_side: int) -> nn.Sequential:
    """Return the yardstick: one 3×3 convolution, doublings, a 3×3 convolution to RGB, sigmoid.

    A doubling is a 4×4 stride-2 transposed convolution, BatchNorm and ReLU, 128 channels.

    Args:
        channels: of the boundary.
        side: of the boundary in positions.
        image_side: in pixels.

    Raises:
        InputError: ``image_side`` is not ``side`` times a power of two.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, _PLAIN_WIDTH, 3, padding=1)]
    while side < image_side:
        layers += [
            nn.ConvTranspose2d(_PLAIN_WIDTH, _PLAIN_WIDTH, 4, stride=2, padding=1),
            nn.BatchNorm2d(_PLAIN_WIDTH),
            nn.ReLU(),
        ]
        side *= 2
    if side != image_side:
        raise InputError(f"the plain decoder cannot reach {image_side} px by doubling")
    return nn.Sequential(*layers, nn.Conv2d(_PLAIN_WIDTH, 3, 3, padding=1), nn.Sigmoid())


def plain_strength(
    target: Target, images: NDArray[np.uint8], victims: Images, *, epochs: int, seed: int
) -> Strength:
    """Train the plain decoder on all attacker images: MSE, AdamW 2e-3 one-cycle, batch 256.

    Args:
        target: the features.
        images: the attacker's, uint8 (N, H, W, 3).
        victims: float32 (M, 3, H, W).
        epochs: 5 in the yardstick.
        seed: of weights and batches.
    """
    started, cpu = time.perf_counter(), time.process_time()
    boundary = as_maps(target.attacker.real(slice(0, 1))).shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = plain_decoder(boundary[1], boundary[2], images.shape[1])
        net = net.to(memory_format=torch.channels_last)
        _train_plain(net, target.attacker, images, epochs)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    net.eval()
    with torch.inference_mode():
        parts = [net(x).contiguous().numpy() for x in _batches(target.victim)]
    return Strength(
        name=f"plain, {epochs} epochs",
        scores=score(victims, np.concatenate(parts)),
        parameters=sum(p.numel() for p in net.parameters()),
        seconds=seconds,
        cpu_seconds=cpu,
    )


def _train_plain(
    net: nn.Module, features: FeatureTable, images: NDArray[np.uint8], epochs: int
) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=_PLAIN_RATE)
    per_epoch = -(-len(images) // _PLAIN_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PLAIN_RATE, total_steps=epochs * per_epoch
    )
    planes = np.moveaxis(images, 3, 1)
    for _ in range(epochs):
        net.train()
        order = torch.randperm(len(images)).numpy()
        for start in range(0, len(order), _PLAIN_BATCH):
            index = order[start : start + _PLAIN_BATCH]
            x = as_maps(features.real(index)).contiguous(memory_format=torch.channels_last)
            y = torch.from_numpy(np.ascontiguousarray(planes[index])).float().div_(255.0)
            optimizer.zero_grad(set_to_none=True)
            mse_loss(net(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def _batches(features: FeatureTable) -> Iterator[Tensor]:
    for start in range(0, len(features), _EVALUATION_BATCH):
        x = as_maps(features.real(slice(start, start + _EVALUATION_BATCH)))
        yield x.contiguous(memory_format=torch.channels_last)


def family_strengths(
    target: Target,
    images: NDArray[np.uint8],
    victims: Images,
    recipe: AttackRecipe,
    cache: TensorCache,
    *,
    threads: int,
    seed: int,
) -> tuple[Strength, ...]:
    """Return each decoder that A0 and A1 would try on these features, the chosen one marked.

    Seconds are those of the first time: a cached decoder keeps them; CPU seconds are then zero.

    Args:
        target: the features.
        images: the attacker's, uint8 (N, H, W, 3).
        victims: float32 (M, 3, H, W).
        recipe: decoder settings.
        cache: where decoders are kept.
        threads: torch's.
        seed: of the attacker.
    """
    family = DecoderFamily(recipe, images, cache, threads=threads, progress=silent)
    cpu = time.process_time()
    tried = family.from_scratch(target.attacker, seed, "strength")
    cpu = time.process_time() - cpu
    chosen = choose(tried)
    found = []
    for number, one in enumerate(tried):
        images_of = np.clip(reconstruct(one.decoder, target.victim), 0.0, 1.0)
        candidate = one.candidate
        mark = " (chosen)" if number == chosen else ""
        found.append(
            Strength(
                name=f"{candidate.start}, {candidate.capacity}, {candidate.epochs} epochs{mark}",
                scores=score(victims, images_of),
                parameters=candidate.parameters,
                seconds=candidate.seconds,
                cpu_seconds=cpu if number == chosen else float("nan"),
            )
        )
    return tuple(found)


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--artifact", default="edge_fp32_onnx", show_default=True)
@click.option("--attacker-images", type=click.IntRange(min=2), default=20_000, show_default=True)
@click.option("--plain-epochs", type=click.IntRange(min=0), default=5, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), help="[default: the bundle's recipe]")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: the bundle's recipe]")
@click.option("--capacities", help="small,large  [default: the bundle's recipe]")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), required=True)
def main(
    bundle_path: Path,
    artifact: str,
    attacker_images: int,
    plain_epochs: int,
    epochs: int | None,
    batch_size: int | None,
    capacities: str | None,
    threads: int,
    seed: int,
    cache: Path,
) -> None:
    """Print dB against seconds of the attack's decoders and a plain one on BUNDLE's features."""
    bundle = load_bundle(bundle_path)
    splits = load_splits(bundle.manifest.recipe.data)
    attacker: ImageSet = splits.attacker.take(np.arange(min(attacker_images, len(splits.attacker))))
    store = TensorCache(cache)
    target = target_of(
        bundle, bundle.artifact(artifact), attacker, splits.victim, store, threads=threads
    )
    victims = as_unit_images(splits.victim.images)
    recipe = _recipe(bundle.manifest.recipe.attack, epochs, batch_size, capacities)
    results = list(
        family_strengths(
            target, attacker.images, victims, recipe, store, threads=threads, seed=seed
        )
    )
    if plain_epochs:
        with torch_threads(threads):
            results.append(
                plain_strength(target, attacker.images, victims, epochs=plain_epochs, seed=seed)
            )
    click.echo(
        f"{bundle.manifest.split} {target.name}: {len(attacker):,} attacker images, "
        f"{len(splits.victim):,} victims, {threads} threads"
    )
    for one in results:
        click.echo(
            f"{one.name:40s} recon_psnr_db {one.scores.psnr.mean():6.3f}  pooled "
            f"{one.scores.pooled_psnr:6.3f}  ssim {one.scores.ssim.mean():.3f}  "
            f"{one.parameters:9,d} parameters  {one.seconds:7.1f} s  {one.cpu_seconds:7.1f} CPU s"
        )


def _recipe(
    sealed: AttackRecipe, epochs: int | None, batch_size: int | None, capacities: str | None
) -> AttackRecipe:
    import msgspec

    changes = {
        "max_epochs": epochs,
        "batch_size": batch_size,
        "capacities": None if capacities is None else capacities.split(","),
    }
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return msgspec.convert(msgspec.to_builtins(sealed) | given, type=AttackRecipe)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"decoder settings: {error}") from error


if __name__ == "__main__":
    main()
