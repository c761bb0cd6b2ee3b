"""Quantization-aware training of the edge: FX ``prepare_qat_fx``, taught by the FP32 network.

The last resort, where no choice of ranges keeps the accuracy. It starts from the weights of the
trained network, BatchNorm folded into them and so frozen (Nagel et al. 2021, "A white paper on
neural network quantization", sec. 4.2: static folding), and from the ranges that calibration
found. Only the edge is trained: the server half is shipped in FP32 as it is, and frozen here. The
loss is the Kullback-Leibler divergence of the whole network's answers from those of FP32 (Hinton et
al. 2015, "Distilling the knowledge in a neural network", temperature 1) plus a share of the
cross-entropy with the labels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import QConfigMapping
from torch.ao.quantization.fake_quantize import FakeQuantize
from torch.ao.quantization.observer import (
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torch.ao.quantization.quantize_fx import prepare_qat_fx
from torch.nn.functional import cross_entropy, kl_div

from baseline.augment import batch_count, batches_of, plan_epoch
from baseline.images import ImageSet
from baseline.preprocessing import preprocess
from baseline.schedule import one_cycle
from export.folding import fold_batch_norms
from export.learned_range import LearnedRange
from export.observers import RangeObserver, tensor_name
from records.errors import ExportError
from records.manifest import Preprocessing
from records.progress import Progress, silent
from records.recipe import ExportRecipe

#: Weight of the cross-entropy beside the divergence.
_LABELS_SHARE = 0.1
_WARMUP_SHARE = 0.1
#: A range's rate as a multiple of the weights': both are relative, and a range has few values.
_RANGE_RATE = 1.0
#: From this share of the steps on the ranges stand still, so that the weights settle on one grid.
_RANGES_FROZEN_FROM = 0.8

# The whole range of the current weights: an averaging constant of 1 forgets all former ones.
TRAINED_WEIGHTS = {
    "per-channel": FakeQuantize.with_args(  # type: ignore[no-untyped-call]
        observer=MovingAveragePerChannelMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        averaging_constant=1.0,
    ),
    "per-tensor": FakeQuantize.with_args(  # type: ignore[no-untyped-call]
        observer=MovingAverageMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_tensor_symmetric,
        averaging_constant=1.0,
    ),
}


@dataclass(frozen=True)
class TrainingImages:
    """What training sees.

    Attributes:
        images: the training set, uint8 (N, H, H, 3), with labels.
        preprocessing: from native pixels to the edge's input, after crop and flip.
    """

    images: ImageSet
    preprocessing: Preprocessing


def prepare_training(
    edge: fx.GraphModule, calibrated: fx.GraphModule, mapping: QConfigMapping, example: Tensor
) -> fx.GraphModule:
    """Return the edge with fake-quantized weights and activations, ready to be trained.

    Args:
        edge: FP32; it is copied.
        calibrated: the same edge out of ``prepare_fx``; gives the ranges to start from.
        mapping: with fake quantizers for weights, ``RangeObserver`` for activations.
        example: an image, float32 (1, 3, S, S).

    Raises:
        ExportError: the two preparations watch different tensors.
    """
    folded = fold_batch_norms(edge).requires_grad_(True)
    prepared = prepare_qat_fx(folded.train(), mapping, (example,))
    _start_from(calibrated, prepared)
    # Nothing behaves as in training but the fake quantizers: no dropout, no batch statistics.
    return prepared.eval()


def _start_from(calibrated: fx.GraphModule, prepared: fx.GraphModule) -> None:
    """Replace every range observer by a learned range that starts at the calibrated one's."""
    observers = _watched(calibrated)
    places = _watched(prepared)
    if observers.keys() != places.keys():
        odd = ", ".join(sorted(observers.keys() ^ places.keys()))
        raise ExportError(
            f"torch trains other tensors than it quantizes ({odd}); export without qat"
        )
    made: dict[int, nn.Module] = {}
    for name, (_, observer) in observers.items():
        if id(observer) not in made:
            made[id(observer)] = _learned(observer)
        owner, _, attribute = places[name][0].rpartition(".")
        setattr(prepared.get_submodule(owner), attribute, made[id(observer)])


def _learned(observer: RangeObserver) -> nn.Module:
    if bool(observer.max_val > observer.min_val):
        return LearnedRange(observer)
    constant = copy.deepcopy(observer)  # one value only: there is no range to learn
    constant.passing = True
    return constant


def _watched(prepared: fx.GraphModule) -> dict[str, tuple[str, RangeObserver]]:
    """Return tensor name → module path and observer of what watches it."""
    found = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            module = prepared.get_submodule(str(node.target))
            if isinstance(module, RangeObserver):
                found[tensor_name(node.all_input_nodes[0])] = (str(node.target), module)
    return found


def train_edge(
    prepared: fx.GraphModule,
    edge: fx.GraphModule,
    server: nn.Module,
    training: TrainingImages,
    recipe: ExportRecipe,
    *,
    progress: Progress = silent,
) -> None:
    """Train a prepared edge in place.

    The result depends on the arguments alone: batches, crops and flips are a function of
    ``recipe.qat_seed``.

    Args:
        prepared: of ``prepare_training``.
        edge: FP32, the teacher's edge.
        server: FP32, boundary → logits (N, K); frozen.
        training: the training set; the first ``recipe.qat_images`` are used.
        recipe: rate, epochs, batch size, seed.
        progress: called once a step.

    Raises:
        ExportError: fewer than two images, or the loss is no longer finite.
    """
    images = training.images
    if recipe.qat_images is not None and recipe.qat_images < len(images):
        images = images.take(np.arange(recipe.qat_images))
    if len(images) < 2:
        raise ExportError("quantization-aware training needs at least two training images")
    teacher = nn.Sequential(copy.deepcopy(edge), copy.deepcopy(server)).eval()
    total = recipe.qat_epochs * batch_count(len(images), recipe.qat_batch_size)
    with torch.enable_grad():
        run = _Training(prepared, teacher.requires_grad_(False), recipe, total)
        batches = _batches(images, training.preprocessing, recipe)
        for step, (batch, labels) in enumerate(batches):
            run.step(step, batch, labels)
            progress("qat", step + 1, total)
    # The weights' fake quantizers observe in forward: let them see the last step's weights.
    with torch.no_grad():
        prepared(batch[:1])


def _batches(
    images: ImageSet, spec: Preprocessing, recipe: ExportRecipe
) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(recipe.qat_epochs):
        plan = plan_epoch(
            len(images),
            spec.native_size,
            recipe.qat_batch_size,
            augment=True,
            seed=recipe.qat_seed,
            epoch=epoch,
        )
        for batch in batches_of(images, plan):
            native = np.ascontiguousarray(batch.images.transpose(0, 2, 3, 1))
            yield torch.from_numpy(preprocess(native, spec)), torch.from_numpy(batch.labels)


class _Training:
    """The optimizer and the loss of one training."""

    def __init__(
        self, prepared: fx.GraphModule, teacher: nn.Sequential, recipe: ExportRecipe, total: int
    ) -> None:
        self._prepared, self._teacher, self._total = prepared, teacher, total
        self._ranges = [m for m in prepared.modules() if isinstance(m, LearnedRange)]
        self._peak = recipe.qat_learning_rate
        self._optimizer = torch.optim.Adam(self._groups(), lr=self._peak)

    def _groups(self) -> list[dict[str, object]]:
        """Return one group a tensor: folded layers differ in size by orders of magnitude."""
        ranges = {id(m.growth) for m in self._ranges}
        groups: list[dict[str, object]] = []
        for parameter in self._prepared.parameters():
            if id(parameter) in ranges:
                size = _RANGE_RATE
            else:
                size = float(parameter.detach().square().mean().sqrt())
            groups.append({"params": [parameter], "size": size})
        return groups

    def step(self, step: int, batch: Tensor, labels: Tensor) -> None:
        rate = one_cycle(step, self._total, self._peak, _WARMUP_SHARE)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["size"]
        if step >= _RANGES_FROZEN_FROM * self._total:
            for learned in self._ranges:
                learned.growth.requires_grad_(False)
        loss = self._loss(batch, labels)
        if not math.isfinite(float(loss.detach())):
            raise ExportError(
                f"the loss of quantization-aware training is not finite at step {step}; "
                f"lower qat_learning_rate (now {self._peak:g})"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        for learned in self._ranges:
            learned.hold()

    def _loss(self, batch: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            expected = self._teacher(batch).flatten(1).log_softmax(1)
        logits = self._teacher[1](self._prepared(batch)).flatten(1)
        divergence = kl_div(logits.log_softmax(1), expected, reduction="batchmean", log_target=True)
        return divergence + _LABELS_SHARE * cross_entropy(logits, labels)
