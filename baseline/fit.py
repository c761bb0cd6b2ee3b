"""The optimization loop: AdamW, one cycle, augmented batches, a checkpoint an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW, Optimizer

from baseline.augment import Batch, batch_count, batches_of, plan_epoch
from baseline.checkpoint import Checkpoints
from baseline.images import ImageSet
from baseline.schedule import one_cycle
from records.errors import DataError, ModelError
from records.manifest import Preprocessing
from records.progress import Progress, silent
from records.recipe import TrainRecipe
from records.training import EpochRecord

#: torchvision's MobileNetV3 keeps 99 % of its running statistics a step, meant for long
#: trainings; with a few hundred steps they would lag behind the weights.
_BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True)
class _Loop:
    """What every step of one training shares."""

    model: nn.Module
    optimizer: Optimizer
    images: ImageSet
    spec: Preprocessing
    recipe: TrainRecipe
    device: torch.device
    progress: Progress

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return batch_count(len(self.images), self.recipe.batch_size)

    def epoch(self, number: int) -> EpochRecord:
        """Train for one epoch, counted from 0."""
        started = time.perf_counter()
        plan = plan_epoch(
            len(self.images),
            self.spec.native_size,
            self.recipe.batch_size,
            augment=self.recipe.augment,
            cutmix=self.recipe.cutmix,
            seed=self.recipe.seed,
            epoch=number,
        )
        torch.manual_seed(_dropout_seed(self.recipe.seed, number))
        self.model.train()
        losses = [
            self._step(number * self.steps + index, batch)
            for index, batch in enumerate(batches_of(self.images, plan))
        ]
        loss = float(torch.stack(losses).sum()) / len(self.images)
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss of epoch {number} is not finite; lower learning_rate "
                f"(now {self.recipe.learning_rate:g})"
            )
        rate: float = self.optimizer.param_groups[0]["lr"]
        seconds = time.perf_counter() - started
        return EpochRecord(epoch=number, loss=loss, learning_rate=rate, seconds=seconds)

    def _step(self, step: int, batch: Batch) -> torch.Tensor:
        total = self.steps * self.recipe.epochs
        rate = one_cycle(step, total, self.recipe.learning_rate, self.recipe.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self.model(self._to_input(batch.images))
        loss = self._loss(logits, batch.labels)
        if batch.pasted_share > 0.0:
            pasted = self._loss(logits, batch.pasted_labels)
            loss = (1.0 - batch.pasted_share) * loss + batch.pasted_share * pasted
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.progress("train", step + 1, total)
        return loss.detach() * len(batch.labels)

    def _loss(self, logits: torch.Tensor, labels: NDArray[np.int64]) -> torch.Tensor:
        target = torch.from_numpy(labels).to(self.device)
        return functional.cross_entropy(logits, target, label_smoothing=self.recipe.label_smoothing)

    def _to_input(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        """Do on the device what ``baseline.preprocessing`` does in numpy."""
        mean, std = (
            torch.tensor(value, device=self.device).view(1, 3, 1, 1)
            for value in (self.spec.mean, self.spec.std)
        )
        images = torch.from_numpy(batch).to(self.device).float().div_(255.0).sub_(mean).div_(std)
        if self.spec.image_size != self.spec.native_size:
            side = (self.spec.image_size, self.spec.image_size)
            images = functional.interpolate(images, side, mode="bilinear", align_corners=False)
        return images.contiguous(memory_format=torch.channels_last)


def fit(
    model: nn.Module,
    images: ImageSet,
    spec: Preprocessing,
    recipe: TrainRecipe,
    *,
    device: torch.device,
    checkpoints: Checkpoints,
    progress: Progress = silent,
) -> tuple[EpochRecord, ...]:
    """Train a network in place, from its last checkpoint where there is one.

    An epoch depends on the state before it and on (seed, epoch) alone, so a training that is killed
    and started again ends with the same weights, bit for bit, on one machine and thread count.

    Args:
        model: moved to ``device``, channels last, and left there.
        images: the training set.
        spec: the preprocessing, applied after the augmentation.
        recipe: the section ``train`` of a recipe.
        device: see ``baseline.device``.
        checkpoints: where the state goes after every epoch.
        progress: called once a step.

    Returns:
        One record an epoch, those before an interruption included.

    Raises:
        DataError: fewer than two training images.
        ModelError: the loss is no longer finite.
        RecipeError: the checkpoint belongs to another recipe.
        RecordError: the checkpoint is damaged.
    """
    if len(images) < 2:
        raise DataError("training needs at least two images")
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, recipe)
    epochs = checkpoints.load(model, optimizer)
    loop = _Loop(model, optimizer, images, spec, recipe, device, progress)
    with _quick_batch_norm(model), torch.random.fork_rng(devices=[]):
        for number in range(len(epochs), recipe.epochs):
            epochs = (*epochs, loop.epoch(number))
            checkpoints.save(model, optimizer, epochs)
    model.eval()
    return epochs


def make_optimizer(model: nn.Module, recipe: TrainRecipe) -> Optimizer:
    """Return AdamW with weight decay on matrices and kernels only.

    Decaying biases and normalization scales pulls them to zero without regularizing anything.

    Args:
        model: already on its device.
        recipe: rate and decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # Fused: one kernel for all of the many small tensors, a tenth less time a step on a CPU.
    return AdamW(groups, lr=recipe.learning_rate, fused=True)


def _dropout_seed(seed: int, epoch: int) -> int:
    # The third word keeps this stream apart from the one that shuffles and crops.
    return int(np.random.SeedSequence((seed, epoch, 1)).generate_state(1, np.uint32)[0])


@contextmanager
def _quick_batch_norm(model: nn.Module) -> Iterator[None]:
    slow = [
        (module, module.momentum)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and module.momentum is not None
        and module.momentum < _BATCH_NORM_MOMENTUM
    ]
    for module, _ in slow:
        module.momentum = _BATCH_NORM_MOMENTUM
    try:
        yield
    finally:
        for module, momentum in slow:
            module.momentum = momentum
