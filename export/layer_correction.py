"""Visits the layers of an edge, float or quantized, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

#: Calibration images that corrections look at; they are averages, and settle early.
MOST_IMAGES = 512

#: Changes a quantized layer, given its module path, itself and its quantized input.
Correct = Callable[[str, Any, Tensor], None]


@contextmanager
def watch_layers(prepared: fx.GraphModule, keep: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``keep`` with the path and output of every float layer that runs, before a fused ReLU.

    Args:
        prepared: of ``prepare_fx``.
        keep: gets a module path and a float32 tensor (N, C, …).
    """
    handles = []
    for node in prepared.graph.nodes:
        if node.op != "call_module":
            continue
        layer = prepared.get_submodule(str(node.target))
        linear = layer[0] if isinstance(layer, nn.Sequential) else layer
        if isinstance(linear, nn.Conv2d | nn.Linear):

            def hook(
                module: nn.Module, inputs: Any, output: Tensor, path: str = str(node.target)
            ) -> None:
                keep(path, output)

            handles.append(linear.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def correct_layers(
    converted: fx.GraphModule, layers: Collection[str], images: Tensor, correct: Correct
) -> None:
    """Correct quantized layers one by one; each sees what the corrected ones before it send.

    Args:
        converted: of ``convert_fx``, under engine qnnpack; changed in place.
        layers: module paths of those to correct.
        images: preprocessed calibration images, float32 (N, 3, S, S); the first 512 are used.
        correct: called once a layer, before the layer runs.
    """
    with torch.inference_mode():
        _Correction(converted, layers, correct).run(images[:MOST_IMAGES])


class _Correction(fx.Interpreter):
    """Runs a quantized graph and has each layer corrected before it runs."""

    def __init__(self, module: fx.GraphModule, layers: Collection[str], correct: Correct) -> None:
        super().__init__(module)
        self._layers, self._correct = layers, correct

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.module.get_submodule(str(target))
        if str(target) in self._layers and hasattr(layer, "set_weight_bias"):
            self._correct(str(target), layer, args[0])
        return super().call_module(target, args, kwargs)


def real_output(layer: Any, x: Tensor) -> Tensor:
    """Return what a quantized layer computes before its ReLU and rounding, float32 (N, C, …).

    Args:
        layer: quantized convolution (2-D) or linear layer.
        x: its quantized input.
    """
    weight, bias = layer._weight_bias()
    real, w = x.dequantize(), weight.dequantize()
    if w.dim() == 2:
        return functional.linear(real, w, bias)
    return functional.conv2d(
        real, w, bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )
