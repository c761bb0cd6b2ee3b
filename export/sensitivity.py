"""Which layers an edge's quantization hurts: each quantized alone, everything else in float.

The calibrated graph computes in float; one tensor at a time is rounded to its grid, together with
the weights of the layer that makes it, and the network's answers are compared with those of FP32.
Losses do not add up: errors of two layers may cancel or grow. The order is what the sweep is for.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import kl_div

from export.observers import RangeObserver, passing, tensor_name
from records.errors import ExportError
from records.progress import Progress, silent
from records.sensitivity import AnswerLoss, LayerSensitivity

_BATCH = 64
_KINDS: dict[str, Literal["input", "module", "function"]] = {
    "placeholder": "input",
    "call_module": "module",
}


@dataclass(frozen=True)
class _Layer:
    """A tensor that is quantized: what makes it, what watches it, and the weights behind it."""

    name: str
    kind: Literal["input", "module", "function"]
    observer: Any
    #: The module with the weight, if any, and what makes an observer for it.
    owner: Any
    weigh: Any

    def grid(self) -> tuple[float, int]:
        scale, zero_point = self.observer.calculate_qparams()
        return float(scale), int(zero_point)


def measure_sensitivity(
    prepared: fx.GraphModule,
    server: nn.Module,
    images: Tensor,
    *,
    progress: Progress = silent,
) -> tuple[AnswerLoss, tuple[LayerSensitivity, ...]]:
    """Quantize every layer alone and all together; compare the answers with FP32's.

    Args:
        prepared: of ``export.quantize.calibrated_edge``; the same afterwards.
        server: boundary (N, …) float32 → logits (N, K).
        images: preprocessed, float32 (N, 3, S, S).
        progress: called once a layer.

    Returns:
        The loss with everything quantized, and the layers, the largest divergence first.

    Raises:
        ExportError: nothing in the graph is quantized.
    """
    layers = _layers(prepared)
    if not layers:
        raise ExportError("nothing of this edge is quantized: there is no sensitivity to measure")
    ranges = [layer.observer for layer in layers if isinstance(layer.observer, RangeObserver)]
    with passing(ranges), torch.inference_mode():
        answers = _Answers(prepared, server, images)
        found = []
        for step, layer in enumerate(layers):
            found.append(_alone(layer, answers))
            progress("sensitivity", step + 1, len(layers))
        with contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(_quantized(layer))
            everything = answers.loss()
    return everything, tuple(sorted(found, key=lambda layer: -layer.loss.kl_nats))


class _Answers:
    """The network's log-probabilities in FP32, and how far others are from them."""

    def __init__(self, prepared: fx.GraphModule, server: nn.Module, images: Tensor) -> None:
        self._prepared, self._server = prepared, server
        self._batches = torch.split(images, _BATCH)
        self._count = len(images)
        self._expected = [self._of(batch) for batch in self._batches]

    def _of(self, batch: Tensor) -> Tensor:
        answers: Tensor = self._server(self._prepared(batch)).flatten(1).log_softmax(1)
        return answers

    def loss(self) -> AnswerLoss:
        divergence, same = 0.0, 0
        for batch, expected in zip(self._batches, self._expected, strict=True):
            found = self._of(batch)
            divergence += float(kl_div(found, expected, reduction="sum", log_target=True))
            same += int((found.argmax(1) == expected.argmax(1)).sum())
        # Rounding can leave a divergence of nothing a hair below zero.
        kl = max(divergence / self._count, 0.0)
        return AnswerLoss(kl_nats=kl, top1_agreement=same / self._count)


class _Noise:
    """Signal and quantization noise of one tensor, summed over batches."""

    def __init__(self, tensors: Iterator[Tensor] | list[Tensor]) -> None:
        self._expected = list(tensors)
        self._at = 0
        self.signal = self.noise = 0.0

    def add(self, found: Tensor) -> None:
        expected = self._expected[self._at]
        self._at += 1
        self.signal += float(expected.double().square().sum())
        self.noise += float((found - expected).double().square().sum())

    def sqnr_db(self) -> float | None:
        if self.noise == 0.0 or self.signal == 0.0:
            return None
        return 10.0 * math.log10(self.signal / self.noise)


def _alone(layer: _Layer, answers: _Answers) -> LayerSensitivity:
    plain: list[Tensor] = []
    with _tapped(layer.observer, plain.append):
        answers.loss()
    noise = _Noise(plain)
    with _quantized(layer), _tapped(layer.observer, noise.add):
        loss = answers.loss()
    scale, zero_point = layer.grid()
    return LayerSensitivity(
        name=layer.name,
        kind=layer.kind,
        quantizes_weights=layer.owner is not None,
        scale=scale,
        zero_point=zero_point,
        sqnr_db=noise.sqnr_db(),
        loss=loss,
    )


@contextlib.contextmanager
def _tapped(observer: nn.Module, take: Any) -> Iterator[None]:
    """Hand everything that leaves an observer to ``take``; the last hook made runs last."""

    def hook(_: nn.Module, __: Any, output: Tensor) -> None:
        take(output.clone())

    handle = observer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _quantized(layer: _Layer) -> Iterator[None]:
    """Round a layer's tensor and weights to their grids."""
    scale, zero_point = layer.grid()
    low, high = layer.observer.quant_min, layer.observer.quant_max

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(output, scale, zero_point, low, high)

    handle = layer.observer.register_forward_hook(hook)
    kept = None if layer.owner is None else layer.owner.weight
    if kept is not None:
        layer.owner.weight = nn.Parameter(_rounded_weight(layer.weigh(), kept), requires_grad=False)
    try:
        yield
    finally:
        handle.remove()
        if kept is not None:
            layer.owner.weight = kept


def _rounded_weight(observer: Any, weight: Tensor) -> Tensor:
    observer(weight)
    scales, zero_points = observer.calculate_qparams()
    low, high = observer.quant_min, observer.quant_max
    if len(scales) == 1:
        scale, zero_point = float(scales), int(zero_points)
        return torch.fake_quantize_per_tensor_affine(weight, scale, zero_point, low, high)
    axis = observer.ch_axis
    return torch.fake_quantize_per_channel_affine(
        weight, scales, zero_points.int(), axis, low, high
    )


def _layers(prepared: fx.GraphModule) -> list[_Layer]:
    """Return one layer for each observer, in graph order; what shares one is quantized together."""
    found: dict[int, _Layer] = {}
    for node in prepared.graph.nodes:
        module = _module(prepared, node)
        if module is None or not hasattr(module, "calculate_qparams"):
            continue
        source = node.all_input_nodes[0]
        maker = _module(prepared, source)
        # None for a layer left in float, whose output is quantized for the next one.
        weigh = getattr(getattr(maker, "qconfig", None), "weight", None)
        layer = _Layer(
            name=tensor_name(source),
            kind=_KINDS.get(source.op, "function"),
            observer=module,
            owner=None if weigh is None else _weighted(maker),
            weigh=weigh,
        )
        found.setdefault(id(module), layer)
    return list(found.values())


def _module(prepared: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return prepared.get_submodule(str(node.target)) if node.op == "call_module" else None


def _weighted(module: nn.Module | None) -> Any:
    """Return the layer that holds a module's weight: itself, or the first part of a fused one."""
    part = module[0] if isinstance(module, nn.Sequential) else module
    return part if isinstance(part, _WEIGHTED) else None


_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
