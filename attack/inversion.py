"""The decoder family: what may be tried on one set of features, trained once and then cached."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attack.cache import TensorCache
from attack.decoder import (
    VERSION,
    Decoder,
    DecoderSpec,
    decoder_from,
    standardised,
    statistics_of,
    tensors_of,
)
from attack.features import FeatureTable
from attack.linear import LinearPath, constant_path, kernels_for, ridge_paths
from attack.metrics import psnr_to_mse
from attack.training import TrainingSet, divide, held_out_loss, torch_threads, train
from records.attack import Candidate, Start
from records.hashing import sha256_array
from records.progress import Progress
from records.recipe import AttackRecipe

#: A closed form better than this leaves nothing for a network to learn.
EXACT_DB = 60.0
#: Fine-tuning starts near its goal: a lower peak, half the epochs.
FINE_TUNE_RATE = 0.3
FINE_TUNE_EPOCHS = 0.5
_SOLVED_IMAGES = 40_000
_JUDGED_IMAGES = 512


@dataclass(frozen=True)
class Tried:
    """A decoder and what is recorded of it."""

    decoder: Decoder
    candidate: Candidate


class DecoderFamily:
    """Makes decoders for the attacker's images; each one is computed once a cause."""

    def __init__(
        self,
        recipe: AttackRecipe,
        images: NDArray[np.uint8],
        cache: TensorCache,
        *,
        threads: int,
        progress: Progress,
    ) -> None:
        """Keep what all decoders share.

        Args:
            recipe: capacities and training settings.
            images: the attacker's, uint8 (N, H, W, 3), N ≥ 2.
            cache: where decoders are kept.
            threads: torch's threads; the bits of a decoder depend on them.
            progress: called once an epoch.
        """
        self._recipe = recipe
        self._images = images
        self._cache = cache
        self._threads = threads
        self._progress = progress
        self._images_sha256 = sha256_array(images)

    def from_scratch(self, features: FeatureTable, seed: int, name: str) -> tuple[Tried, ...]:
        """Return the mean image, the closed form and one trained decoder a capacity.

        Args:
            features: of the attacker's images.
            seed: of held-out images, initial weights and batches.
            name: for the progress.
        """
        closed = self._closed_forms(features, seed)
        best = closed[choose(closed)]
        if best.candidate.best_val_loss < psnr_to_mse(EXACT_DB):
            return closed
        trained = [self._scratch(features, seed, c, best, name) for c in self._recipe.capacities]
        return (*closed, *trained)

    def fine_tuned(
        self, features: FeatureTable, seed: int, starts: tuple[Tried, ...], name: str
    ) -> tuple[Tried, ...]:
        """Train decoders further on other features; only those with something to train.

        Args:
            features: of the attacker's images, from the artifact under attack.
            seed: as in `from_scratch`.
            starts: decoders trained on the FP32 features.
            name: for the progress.
        """
        return tuple(self._fine_tune(features, seed, s, name) for s in starts if s.decoder.trunk)

    def unchanged(self, features: FeatureTable, seed: int, tried: Tried) -> Tried:
        """Return a decoder as it is, with its held-out loss on these features."""
        with torch_threads(self._threads):
            loss = held_out_loss(tried.decoder, self._data(features, seed))
        capacity = tried.candidate.capacity
        candidate = _untrained("unchanged", capacity, tried.decoder, loss, seconds=0.0)
        return Tried(tried.decoder, candidate)

    def _data(self, features: FeatureTable, seed: int) -> TrainingSet:
        return divide(features, self._images, self._recipe.validation_share, seed)

    def _closed_forms(self, features: FeatureTable, seed: int) -> tuple[Tried, ...]:
        spec = self._spec(features, "linear")
        found = []
        starts: tuple[Start, ...] = ("constant", "closed-form")
        for start in starts:
            cause = self._cause(features, seed, start, "linear")
            stored = self._load(cause, spec)
            if stored is None:
                with torch_threads(self._threads):
                    stored = self._solve(features, seed, start, spec)
                if stored is None:
                    continue
                self._store(cause, stored)
            found.append(stored)
        return tuple(found)

    def _solve(
        self, features: FeatureTable, seed: int, start: Start, spec: DecoderSpec
    ) -> Tried | None:
        """Return the closed form with the lowest held-out loss, None when none can be solved."""
        started = time.perf_counter()
        data = self._data(features, seed)
        x, y = data.pairs(data.train[:_SOLVED_IMAGES])
        mean, scale = statistics_of(x)
        with torch.no_grad():
            if start == "constant":
                path: LinearPath | None = constant_path(spec.grid, y)
            else:
                on_grid = standardised(x, mean, scale, spec.grid)
                judge_x, judge_y = data.pairs(data.held_out[:_JUDGED_IMAGES])
                judged = standardised(judge_x, mean, scale, spec.grid)
                path = _best_ridge(on_grid, y, spec, judged, judge_y)
        if path is None:
            return None
        decoder = Decoder(spec, mean, scale, path)
        seconds = time.perf_counter() - started
        loss = held_out_loss(decoder, data)
        return Tried(decoder, _untrained(start, "linear", decoder, loss, seconds=seconds))

    def _scratch(
        self, features: FeatureTable, seed: int, capacity: str, closed: Tried, name: str
    ) -> Tried:
        spec = self._spec(features, capacity)
        base = closed.decoder
        # The closed form stays as it was solved: training it too was no better and less steady.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            path = copy.deepcopy(base.path).requires_grad_(False)
            decoder = Decoder(spec, base.mean.clone(), base.scale.clone(), path)
        settings = self._settings(1.0, 1.0)
        return self._trained(decoder, features, seed, "scratch", settings, name)

    def _fine_tune(self, features: FeatureTable, seed: int, start: Tried, name: str) -> Tried:
        decoder = copy.deepcopy(start.decoder).requires_grad_(True)
        # As in `_scratch`; said here again, since a decoder from the cache does not know it.
        decoder.path.requires_grad_(False)
        settings = self._settings(FINE_TUNE_RATE, FINE_TUNE_EPOCHS)
        return self._trained(decoder, features, seed, "fine-tuned", settings, name)

    def _settings(self, rate: float, epochs: float) -> _Settings:
        recipe = self._recipe
        return _Settings(
            peak=rate * recipe.learning_rate,
            epochs=max(1, math.ceil(epochs * recipe.max_epochs)),
            patience=recipe.patience,
            batch_size=recipe.batch_size,
        )

    def _trained(
        self,
        decoder: Decoder,
        features: FeatureTable,
        seed: int,
        start: Literal["scratch", "fine-tuned"],
        settings: _Settings,
        name: str,
    ) -> Tried:
        """Train a decoder, or read what the same training gave before."""
        before = sha256_array(*(a for _, a in sorted(tensors_of(decoder).items())))
        capacity = decoder.spec.capacity
        cause = self._cause(features, seed, start, capacity, settings, before)
        stored = self._load(cause, decoder.spec)
        if stored is not None:
            return stored
        task = f"{name}: {capacity} decoder, {start}"

        def report(epoch: int) -> None:
            self._progress(task, epoch, settings.epochs)

        self._progress(task, 0, settings.epochs)
        data = self._data(features, seed)
        with torch_threads(self._threads):
            fit = train(
                decoder,
                data,
                self._recipe,
                seed=seed,
                peak=settings.peak,
                epochs=settings.epochs,
                report=report,
            )
        self._progress(task, settings.epochs, settings.epochs)
        candidate = Candidate(
            start=start,
            capacity=capacity,
            parameters=decoder.parameter_count,
            epochs=len(fit.val_loss),
            best_epoch=fit.best_epoch,
            best_val_loss=fit.val_loss[fit.best_epoch],
            val_loss=fit.val_loss,
            stopped=fit.stopped,
            seconds=fit.seconds,
        )
        tried = Tried(decoder, candidate)
        self._store(cause, tried)
        return tried

    def _spec(self, features: FeatureTable, capacity: str) -> DecoderSpec:
        return DecoderSpec(
            boundary=features.boundary, image_side=self._images.shape[1], capacity=capacity
        )

    def _cause(
        self,
        features: FeatureTable,
        seed: int,
        start: Start,
        capacity: str,
        settings: _Settings | None = None,
        before: str = "",
    ) -> dict[str, Any]:
        """Return everything that decides a decoder's bits on one machine."""
        return {
            "kind": f"decoder/{VERSION}",
            "features": features.sha256,
            "images": self._images_sha256,
            "seed": seed,
            "held_out": self._recipe.validation_share,
            "start": start,
            "capacity": capacity,
            "settings": settings,
            "before": before,
            "threads": self._threads,
            "torch": [str(torch.__version__), torch.backends.cpu.get_cpu_capability()],
        }

    def _load(self, cause: dict[str, Any], spec: DecoderSpec) -> Tried | None:
        entry = self._cache.get(cause)
        if entry is None:
            return None
        tensors, meta = entry
        stored = msgspec.convert(meta, type=_Stored)
        return Tried(decoder_from(spec, stored.kernel, tensors), stored.candidate)

    def _store(self, cause: dict[str, Any], tried: Tried) -> None:
        meta = _Stored(kernel=tried.decoder.path.kernel, candidate=tried.candidate)
        self._cache.put(cause, tensors_of(tried.decoder), msgspec.to_builtins(meta))


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What decides a training beside the data and the seed."""

    peak: float
    epochs: int
    patience: int
    batch_size: int


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a cached decoder."""

    kernel: int | None
    candidate: Candidate


def choose(tried: tuple[Tried, ...]) -> int:
    """Return the index of the lowest held-out loss, the first of equals."""
    losses = [t.candidate.best_val_loss for t in tried]
    return losses.index(min(losses))


def _best_ridge(
    features: Tensor, images: Tensor, spec: DecoderSpec, judged: Tensor, truth: Tensor
) -> LinearPath | None:
    """Return the kernel and strength with the lowest loss on held-out pairs."""
    best: tuple[float, LinearPath] | None = None
    for kernel in kernels_for(spec.grid):
        for path in ridge_paths(features, images, spec.grid, kernel):
            loss = float((path(judged).clamp(0.0, 1.0) - truth).square().mean())
            if best is None or loss < best[0]:
                best = (loss, path)
    return None if best is None else best[1]


def _untrained(
    start: Start, capacity: str, decoder: Decoder, loss: float, *, seconds: float
) -> Candidate:
    return Candidate(
        start=start,
        capacity=capacity,
        parameters=decoder.parameter_count,
        epochs=0,
        best_epoch=0,
        best_val_loss=loss,
        val_loss=(loss,),
        stopped="not-trained",
        seconds=seconds,
    )
