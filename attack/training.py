"""Gradient training of one decoder: seeded batches, Muon, one-cycle rate, best epoch kept."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from attack.decoder import Decoder
from attack.features import FeatureTable
from attack.muon import Muon
from records.recipe import AttackRecipe

#: Share of the steps in which the rate rises; patience is not counted before its peak.
WARMUP_SHARE = 0.2
_START_SHARE = 0.04
_WEIGHT_DECAY = 0.01
#: Muon's rate for one of AdamW: an orthogonal update is so much larger. 7.5 was 0.1 dB better where
#: it went well; it is the lower one that also learned in small batches and from noisy features.
_MUON_SHARE = 5.0
_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class TrainingSet:
    """The attacker's own pairs, divided: train indices in random order, held-out indices.

    Attributes:
        features: of all attacker images.
        images: uint8 (N, 3, H, W), the targets.
        train: int (T,) indices.
        held_out: int (V,) indices, never trained on.
    """

    features: FeatureTable
    images: NDArray[np.uint8]
    train: NDArray[np.intp]
    held_out: NDArray[np.intp]

    def pairs(self, index: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Return float32 features (M, *boundary) and targets (M, 3, H, W) in [0, 1]."""
        return self.features.real(index), torch.from_numpy(self.images[index]).float().div_(255.0)


@dataclass(frozen=True)
class Fit:
    """How a training went: held-out MSE after each epoch, and why it ended."""

    val_loss: tuple[float, ...]
    best_epoch: int
    stopped: Literal["patience", "max-epochs"]
    seconds: float


def divide(
    features: FeatureTable, images: NDArray[np.uint8], share: float, seed: int
) -> TrainingSet:
    """Hold out a seeded share of the attacker's images, at least one and never all.

    Args:
        features: of N ≥ 2 images.
        images: uint8 (N, H, W, 3).
        share: of the images that is held out.
        seed: of the permutation.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    held = held_out_count(len(images), share)
    planes = np.ascontiguousarray(np.moveaxis(images, 3, 1))
    return TrainingSet(features=features, images=planes, train=order[held:], held_out=order[:held])


def held_out_count(count: int, share: float) -> int:
    """Return how many of ``count`` ≥ 2 images are held out: at least one and never all."""
    return min(max(1, round(share * count)), count - 1)


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Run the block with ``threads`` threads in torch; the bits of a training depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def held_out_loss(decoder: Decoder, data: TrainingSet) -> float:
    """Return the MSE of clipped reconstructions of the held-out images, data range 1.0."""
    total = 0.0
    decoder.eval()
    with torch.inference_mode():
        for start in range(0, len(data.held_out), _EVALUATION_BATCH):
            index = data.held_out[start : start + _EVALUATION_BATCH]
            x, y = data.pairs(index)
            error = (decoder(x).clamp(0.0, 1.0) - y).square_()
            total += float(error.mean(dtype=torch.float64)) * len(index)
    return total / len(data.held_out)


def reconstruct(decoder: Decoder, features: FeatureTable) -> NDArray[np.float32]:
    """Return unclipped reconstructions, float32 (N, 3, H, W), of all features of a table."""
    decoder.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(features), _EVALUATION_BATCH):
            x = features.real(slice(start, start + _EVALUATION_BATCH))
            parts.append(decoder(x).numpy())
    return np.concatenate(parts)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Return the one-cycle learning rate of a step: half-cosine up to ``peak``, then down to 0.

    Smith and Topin 2019, "Super-convergence", with cosine flanks as in torch's OneCycleLR.

    Args:
        step: 0 … steps − 1.
        steps: in all, ≥ 1.
        peak: the highest rate.
    """
    top = max(1.0, WARMUP_SHARE * steps)
    if step < top:
        low = _START_SHARE * peak
        return low + (peak - low) * 0.5 * (1 - math.cos(math.pi * step / top))
    return peak * 0.5 * (1 + math.cos(math.pi * (step - top) / max(1.0, steps - top)))


def train(
    decoder: Decoder,
    data: TrainingSet,
    recipe: AttackRecipe,
    *,
    seed: int,
    peak: float,
    epochs: int,
    report: Callable[[int], None],
) -> Fit:
    """Train a decoder in place and leave it with the weights of its best epoch.

    Stops when the held-out loss has not fallen for ``recipe.patience`` epochs after the rate's
    peak, or after ``epochs``.

    Args:
        decoder: its trainable parameters are those that require gradients.
        data: the attacker's pairs.
        recipe: batch size and patience.
        seed: of the order of the batches.
        peak: highest learning rate, AdamW's; Muon's is a multiple of it.
        epochs: at most so many, ≥ 1.
        report: called with the number of epochs done.
    """
    started = time.perf_counter()
    rng = np.random.default_rng((seed, 1))
    optimizer = _Optimizer(decoder)
    size = recipe.batch_size
    per_epoch = -(-len(data.train) // size)
    losses: list[float] = []
    best, best_state = 0, {k: v.clone() for k, v in decoder.state_dict().items()}
    for epoch in range(epochs):
        order = rng.permutation(data.train)
        decoder.train()
        for step in range(per_epoch):
            x, y = data.pairs(order[step * size : (step + 1) * size])
            mse_loss(decoder(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step(rate_at(epoch * per_epoch + step, epochs * per_epoch, peak))
        losses.append(held_out_loss(decoder, data))
        report(epoch + 1)
        if losses[-1] <= min(losses):
            best, best_state = epoch, {k: v.clone() for k, v in decoder.state_dict().items()}
        if epoch - max(best, WARMUP_SHARE * epochs) >= recipe.patience:
            break
    decoder.load_state_dict(best_state)
    return Fit(
        val_loss=tuple(losses),
        best_epoch=best,
        stopped="max-epochs" if len(losses) == epochs else "patience",
        seconds=time.perf_counter() - started,
    )


class _Optimizer:
    """Muon for the trunk's hidden convolutions, AdamW for all else that is trained."""

    def __init__(self, decoder: Decoder) -> None:
        hidden = [] if decoder.trunk is None else decoder.trunk.hidden
        known = {id(p) for p in hidden}
        others = [p for p in decoder.parameters() if p.requires_grad and id(p) not in known]
        self._muon = Muon(hidden, _WEIGHT_DECAY)
        self._adam = torch.optim.AdamW(others, lr=0.0, weight_decay=_WEIGHT_DECAY, fused=True)

    def step(self, rate: float) -> None:
        """Step along the gradients and drop them."""
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()
        self._muon.step(_MUON_SHARE * rate)
        self._adam.zero_grad(set_to_none=True)
        self._muon.clear()
