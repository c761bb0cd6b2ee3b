"""How strong the decoder is for its CPU time: beside a plain one on the same features.

Run ``python -m attack.strength --help``. It stands here and not in ``benchmarks``, which neither
imports the attack nor needs torch. ``tests/attack/test_attack_strength.py`` keeps a floor under it
on small data; ``--floor-db`` keeps one on real data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import mse_loss

from attack.adaptive import AdaptiveAttack
from attack.cache import TensorCache
from attack.campaign import BASELINE
from attack.decoder import as_maps
from attack.features import FeatureTable, Target, target_of
from attack.inversion import DecoderFamily, Tried, choose
from attack.metrics import Images, Scores, as_unit_images, psnr_of_mse, score
from attack.static import StaticAttack
from attack.training import reconstruct, torch_threads
from baseline.datasets import load_splits
from baseline.images import ImageSet
from export.bundle import load_bundle
from records import codec
from records.errors import GateFailedError, InputError
from records.recipe import AttackRecipe

_PLAIN_WIDTH = 128
_PLAIN_RATE = 2e-3
_PLAIN_BATCH = 256
_EVALUATION_BATCH = 500
_JUDGED = 1000


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What a decoder cost; CPU seconds are those of all threads, None when it was in the cache.

    Attributes:
        wall: seconds of fitting.
        cpu: CPU seconds of fitting.
        cpu_at_epoch: CPU seconds from the start to the end of each epoch.
    """

    wall: float
    cpu: float | None
    cpu_at_epoch: tuple[float | None, ...] = ()


class Strength(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder's result.

    Attributes:
        name: of the decoder.
        chosen: it is the one that the attack would use.
        recon_psnr_db: mean of the victims' PSNR.
        recon_psnr_pooled_db: PSNR of the mean MSE.
        recon_ssim: mean of the victims' SSIM.
        parameters: weights and biases.
        curve_db: pooled PSNR after each epoch of training, of the images it is judged on.
        timing: what it cost.
    """

    name: str
    chosen: bool
    recon_psnr_db: float
    recon_psnr_pooled_db: float
    recon_ssim: float
    parameters: int
    curve_db: tuple[float, ...]
    timing: Timing


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All decoders on one artifact's features.

    Attributes:
        split: where the network was cut.
        artifact: whose outputs were attacked.
        attacker_images: how many the decoders were fitted on, held-out ones included.
        victims: how many were scored.
        threads: of torch.
        seed: of the attacker.
        recipe: decoder settings.
        decoders: in the order they were fitted; the yardstick, if asked for, last.
        margin_db: the chosen decoder (A1's, where there is one) over the yardstick in
            ``recon_psnr_db``.
        timing: all of ours, features included, fitting and scoring; the yardstick left out.
    """

    split: str
    artifact: str
    attacker_images: int
    victims: int
    threads: int
    seed: int
    recipe: AttackRecipe
    decoders: tuple[Strength, ...]
    margin_db: float | None
    timing: Timing


class _Clock:
    """CPU seconds at each step that a family reports."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[int, float]] = {}

    def __call__(self, task: str, done: int, total: int) -> None:
        """Note when a step was first reported."""
        self._steps.setdefault(task, {}).setdefault(done, time.process_time())

    def epochs(self, task: str, count: int) -> tuple[float | None, ...]:
        """Return CPU seconds from a task's start to the end of each of ``count`` epochs."""
        steps = self._steps.get(task)
        if steps is None:
            return (None,) * count
        return tuple(steps[epoch + 1] - steps[0] for epoch in range(count))


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

    Its curve is judged on the first thousand victims, and the time of judging is left out.

    Args:
        target: the features.
        images: the attacker's, uint8 (N, H, W, 3).
        victims: float32 (M, 3, H, W).
        epochs: 5 in the yardstick.
        seed: of weights and batches.
    """
    started, cpu = time.perf_counter(), time.process_time()
    boundary = as_maps(target.attacker.real(slice(0, 1))).shape
    judging, curve_db, spent = 0.0, [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = plain_decoder(boundary[1], boundary[2], images.shape[1])
        net = net.to(memory_format=torch.channels_last)
        for _ in _train_plain(net, target.attacker, images, epochs):
            now = time.process_time()
            rebuilt = _plain_images(net, target.victim, _JUDGED)
            mse = np.square(rebuilt - victims[: len(rebuilt)]).mean(dtype=np.float64)
            spent.append(now - cpu - judging)
            curve_db.append(float(psnr_of_mse(np.asarray(mse))))
            judging += time.process_time() - now
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu - judging
    return _strength(
        f"plain, {epochs} epochs",
        score(victims, _plain_images(net, target.victim, len(victims))),
        parameters=sum(p.numel() for p in net.parameters()),
        curve_db=tuple(curve_db),
        timing=Timing(wall=seconds, cpu=cpu, cpu_at_epoch=tuple(spent)),
    )


def _train_plain(
    net: nn.Module, features: FeatureTable, images: NDArray[np.uint8], epochs: int
) -> Iterator[int]:
    """Train in place and yield each epoch that is done."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=_PLAIN_RATE)
    per_epoch = -(-len(images) // _PLAIN_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PLAIN_RATE, total_steps=epochs * per_epoch
    )
    planes = np.moveaxis(images, 3, 1)
    for epoch in range(epochs):
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
        yield epoch


def _plain_images(net: nn.Module, features: FeatureTable, count: int) -> Images:
    """Return the reconstructions of the first ``count`` features, float32 (N, 3, H, W)."""
    net.eval()
    count = min(count, len(features))
    parts = []
    with torch.inference_mode():
        for start in range(0, count, _EVALUATION_BATCH):
            stop = min(start + _EVALUATION_BATCH, count)
            x = as_maps(features.real(slice(start, stop)))
            parts.append(net(x.contiguous(memory_format=torch.channels_last)).contiguous().numpy())
    return np.concatenate(parts)


def family_strengths(
    target: Target,
    images: NDArray[np.uint8],
    victims: Images,
    recipe: AttackRecipe,
    cache: TensorCache,
    *,
    threads: int,
    seed: int,
    fp32: Target | None = None,
) -> tuple[Strength, ...]:
    """Return each decoder that is tried on these features, the chosen one marked.

    Curves are those of the held-out images. Seconds of a cached decoder are those of its first
    time.

    Args:
        target: the features.
        images: the attacker's, uint8 (N, H, W, 3).
        victims: float32 (M, 3, H, W).
        recipe: decoder settings.
        cache: where decoders are kept.
        threads: torch's.
        seed: of the attacker.
        fp32: the FP32 features: with them it is the whole evaluation of one artifact, A0's
            decoders trained on them and A1's on ``target``; without, A0's on ``target`` alone.
    """
    clock = _Clock()
    family = DecoderFamily(recipe, images, cache, threads=threads, progress=clock)
    static = StaticAttack(family, target if fp32 is None else fp32)
    first = static.decoders(seed)
    first_name = f"A0 on {target.name if fp32 is None else fp32.name}"
    if fp32 is None:
        return _strengths(first, target, victims, clock, first_name)
    adapted = AdaptiveAttack(family, static).tried(target, seed)
    return (
        *_strengths(first, target, victims, clock, first_name),
        *_strengths(adapted, target, victims, clock, f"A1 on {target.name}"),
    )


def _strengths(
    tried: tuple[Tried, ...], target: Target, victims: Images, clock: _Clock, task: str
) -> tuple[Strength, ...]:
    """Return what each decoder of one attack reaches on the victims."""
    chosen = choose(tried)
    found = []
    for number, one in enumerate(tried):
        candidate = one.candidate
        times = clock.epochs(
            f"{task}: {candidate.capacity} decoder, {candidate.start}", candidate.epochs
        )
        name = f"{task.split()[0]} {candidate.start}, {candidate.capacity}"
        found.append(
            _strength(
                f"{name}, {candidate.epochs} epochs",
                score(victims, np.clip(reconstruct(one.decoder, target.victim), 0.0, 1.0)),
                chosen=number == chosen,
                parameters=candidate.parameters,
                curve_db=tuple(float(psnr_of_mse(np.asarray(loss))) for loss in candidate.val_loss)[
                    : candidate.epochs
                ],
                timing=Timing(
                    wall=candidate.seconds, cpu=times[-1] if times else None, cpu_at_epoch=times
                ),
            )
        )
    return tuple(found)


def _strength(name: str, scores: Scores, *, chosen: bool = False, **facts: Any) -> Strength:
    return Strength(
        name=name,
        chosen=chosen,
        recon_psnr_db=float(scores.psnr.mean()),
        recon_psnr_pooled_db=scores.pooled_psnr,
        recon_ssim=float(scores.ssim.mean()),
        **facts,
    )


def margin_of(decoders: tuple[Strength, ...], plain: Strength) -> float:
    """Return by how many dB of ``recon_psnr_db`` the last chosen decoder beats the plain one."""
    chosen = [one for one in decoders if one.chosen][-1]
    return chosen.recon_psnr_db - plain.recon_psnr_db


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--artifact", default="edge_fp32_onnx", show_default=True)
@click.option("--adaptive", is_flag=True, help="A0 and A1 on the artifact, as one evaluation.")
@click.option("--attacker-images", type=click.IntRange(min=2), default=20_000, show_default=True)
@click.option("--plain-epochs", type=click.IntRange(min=0), default=5, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), help="[default: the bundle's recipe]")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: the bundle's recipe]")
@click.option("--capacities", help="small,medium,large  [default: the bundle's recipe]")
@click.option("--learning-rate", type=float, help="[default: the bundle's recipe]")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), required=True)
@click.option("--floor-db", type=float, help="Exit with 2 when ours beats plain by less.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def main(
    bundle_path: Path,
    artifact: str,
    adaptive: bool,
    attacker_images: int,
    plain_epochs: int,
    epochs: int | None,
    batch_size: int | None,
    capacities: str | None,
    learning_rate: float | None,
    threads: int,
    seed: int,
    cache: Path,
    floor_db: float | None,
    as_json: bool,
) -> None:
    """Print dB against seconds of the attack's decoders and a plain one on BUNDLE's features."""
    _check_floor(floor_db, plain_epochs)
    bundle = load_bundle(bundle_path)
    splits = load_splits(bundle.manifest.recipe.data)
    attacker: ImageSet = splits.attacker.take(np.arange(min(attacker_images, len(splits.attacker))))
    store = TensorCache(cache)
    started, cpu = time.perf_counter(), time.process_time()
    target, fp32 = (
        target_of(bundle, bundle.artifact(name), attacker, splits.victim, store, threads=threads)
        for name in (artifact, BASELINE)
    )
    victims = as_unit_images(splits.victim.images)
    given = {
        "max_epochs": epochs,
        "batch_size": batch_size,
        "capacities": None if capacities is None else capacities.split(","),
        "learning_rate": learning_rate,
    }
    recipe = _recipe(bundle.manifest.recipe.attack, given)
    ours = family_strengths(
        target,
        attacker.images,
        victims,
        recipe,
        store,
        threads=threads,
        seed=seed,
        fp32=fp32 if adaptive else None,
    )
    spent = Timing(wall=time.perf_counter() - started, cpu=time.process_time() - cpu)
    plain: tuple[Strength, ...] = ()
    if plain_epochs:
        with torch_threads(threads):
            plain = (
                plain_strength(target, attacker.images, victims, epochs=plain_epochs, seed=seed),
            )
    comparison = Comparison(
        split=bundle.manifest.split,
        artifact=target.name,
        attacker_images=len(attacker),
        victims=len(splits.victim),
        threads=threads,
        seed=seed,
        recipe=recipe,
        decoders=(*ours, *plain),
        margin_db=margin_of(ours, plain[0]) if plain else None,
        timing=spent,
    )
    click.echo(codec.encode(comparison).decode().rstrip() if as_json else _as_text(comparison))
    if floor_db is not None:
        try:
            gate_margin(comparison, floor_db)
        except GateFailedError as error:
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)


def _check_floor(floor_db: float | None, plain_epochs: int) -> None:
    if floor_db is not None and not plain_epochs:
        raise InputError("--floor-db compares with the plain decoder: leave --plain-epochs above 0")


def gate_margin(comparison: Comparison, floor_db: float) -> None:
    """Refuse an attack that beats the plain decoder by less than ``floor_db``.

    Raises:
        GateFailedError: it does; the attack got weaker, and so did every verdict made with it.
    """
    margin = comparison.margin_db
    if margin is None or not margin >= floor_db:
        shown = "nothing" if margin is None else f"{margin:.2f} dB"
        raise GateFailedError(
            f"the attack's decoder beats the plain one by {shown}, the floor is {floor_db:g} dB: "
            "it got weaker, or needs more epochs or capacity"
        )


def _as_text(comparison: Comparison) -> str:
    lines = [
        f"{comparison.split} {comparison.artifact}: {comparison.attacker_images:,} attacker "
        f"images, {comparison.victims:,} victims, {comparison.threads} threads"
    ]
    for one in comparison.decoders:
        name = f"{one.name} (chosen)" if one.chosen else one.name
        lines.append(
            f"{name:40s} recon_psnr_db {one.recon_psnr_db:6.3f}  pooled "
            f"{one.recon_psnr_pooled_db:6.3f}  ssim {one.recon_ssim:.3f}  "
            f"{one.parameters:9,d} parameters  {one.timing.wall:7.1f} s  {_spent(one.timing.cpu)}"
        )
        lines.extend(
            f"    epoch {epoch:2d}  {db:6.3f} dB pooled  {_spent(cpu)}"
            for epoch, (db, cpu) in enumerate(
                zip(one.curve_db, one.timing.cpu_at_epoch, strict=True), start=1
            )
        )
    total = comparison.timing
    lines.append(f"ours in all: {total.wall:.1f} s  {_spent(total.cpu)}")
    if comparison.margin_db is not None:
        lines.append(f"chosen − plain: {comparison.margin_db:+.3f} dB")
    return "\n".join(lines)


def _spent(cpu_seconds: float | None) -> str:
    return "" if cpu_seconds is None else f"{cpu_seconds:7.1f} CPU s"


def _recipe(sealed: AttackRecipe, changes: dict[str, Any]) -> AttackRecipe:
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return msgspec.convert(msgspec.to_builtins(sealed) | given, type=AttackRecipe)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"decoder settings: {error}") from error


if __name__ == "__main__":
    main()
