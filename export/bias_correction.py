"""Biases that take back the mean error which rounding brings into every channel.

Rounded inputs and weights shift the mean of a layer's output; the shift is known from the
calibration images and is subtracted from the bias, layer by layer in graph order, each seeing what
the corrected layers before it send (Nagel et al. 2019, "Data-free quantization through weight
equalization and bias correction", sec. 4.2, in its empirical form).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_MOST_IMAGES = 512


def output_means(prepared: fx.GraphModule, images: Tensor) -> dict[str, Tensor]:
    """Return each float layer's mean output per channel, before a fused ReLU, float32 (C,).

    Args:
        prepared: of ``prepare_fx``, observers passing everything on; run in float.
        images: preprocessed calibration images, float32 (N, 3, S, S); the first 512 are used.
    """
    means: dict[str, Tensor] = {}

    def keep(path: str, output: Tensor) -> None:
        means[path] = _channel_mean(output)

    with watch_layers(prepared, keep), torch.inference_mode():
        prepared(images[:_MOST_IMAGES])
    return means


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


def _channel_mean(output: Tensor) -> Tensor:
    return output.mean([d for d in range(output.dim()) if d != 1])


def correct_biases(converted: fx.GraphModule, expected: dict[str, Tensor], images: Tensor) -> None:
    """Shift the bias of every quantized layer so that its mean output is the expected one.

    Args:
        converted: of ``convert_fx``, under engine qnnpack; changed in place.
        expected: of ``output_means``.
        images: the same images.
    """
    with torch.inference_mode():
        _Correction(converted, expected).run(images[:_MOST_IMAGES])


class _Correction(fx.Interpreter):
    """Runs a quantized graph and corrects each layer before it runs."""

    def __init__(self, module: fx.GraphModule, expected: dict[str, Tensor]) -> None:
        super().__init__(module)
        self._expected = expected

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.module.get_submodule(str(target))
        if str(target) in self._expected and hasattr(layer, "set_weight_bias"):
            _correct(layer, args[0], self._expected[str(target)])
        return super().call_module(target, args, kwargs)


def _correct(layer: Any, x: Tensor, expected: Tensor) -> None:
    weight, bias = layer._weight_bias()
    shift = expected - _channel_mean(real_output(layer, x))
    layer.set_weight_bias(weight, shift if bias is None else bias + shift)


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
