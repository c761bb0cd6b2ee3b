"""An edge as a torch module of quantize and dequantize nodes: what ExecuTorch lowers.

Activations are int8 (FX's uint8 less 128) at FX's own scales, weights int8 with one scale for each
output channel. Every operator stands in float32 between a dequantize of each input and a quantize
of its output, the form in which XNNPACK's partitioner takes integer kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# Registers torch.ops.quantized_decomposed.
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn
from torch.nn import functional

from export.layers import Grid, Layer, LayerGraph, Value
from export.xnnpack_add import add_form
from records.errors import ExportError

_OFFSET = 128
_INT8 = (-128, 127)
#: See `export.tflite`: larger windows have few ties, and XNNPACK no fast depthwise kernel.
_MOST_TAPS = 25


class PteModule(nn.Module):
    """Images (1, 3, S, S) float32 → boundary (1, …), float32 or the uint8 that is sent."""

    def __init__(self, layers: LayerGraph, *, wire: bool) -> None:
        """Store the weights as buffers."""
        super().__init__()
        self.layers = layers
        self.wire = wire
        for number, layer in enumerate(layers.layers):
            self._store(number, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Run float32 (N, 3, S, S) through the layers; a value on a grid is kept as int8."""
        values = {self.layers.image.name: x}
        for number, layer in enumerate(self.layers.layers):
            reals = [_real(values, value) for value in layer.inputs]
            if layer.kind == "concat":
                result = torch.cat([r for r in reals if isinstance(r, Tensor)], _axis(layer))
            else:
                result = _COMPUTE[layer.kind](self, number, layer, reals)
            values[layer.output.name] = _stored(result, layer.output.grid)
        last = self.layers.boundary
        if not self.wire:
            return _dequantized(values[last.name], last.grid)
        # Without a quantizing operator, so that a runtime of portable kernels alone can run it.
        return (values[last.name].to(torch.int32) + _OFFSET).to(torch.uint8)

    def weight(self, number: int) -> Tensor:
        """Return a layer's weight of any shape in float32, behind a dequantize if it is int8."""
        stored: Tensor = getattr(self, f"weight_{number}")
        if stored.dtype != torch.int8:
            return stored
        scales, zeros = getattr(self, f"scales_{number}"), getattr(self, f"zeros_{number}")
        real: Tensor = torch.ops.quantized_decomposed.dequantize_per_channel(
            stored, scales, zeros, 0, *_INT8, torch.int8
        )
        return real

    def bias(self, number: int) -> Tensor:
        """Return a layer's bias, float32 of shape (O,); XNNPACK rounds it to int32 as FX does."""
        bias: Tensor = getattr(self, f"bias_{number}")
        return bias

    def _store(self, number: int, layer: Layer) -> None:
        if layer.weights is not None:
            weights = layer.weights
            self._keep(number, weights.values, weights.real_bias, weights.scales)
        elif averages_by_convolution(layer):
            kernel = _window(layer)[0]
            channels = layer.source.shape[0]
            ones = np.ones((channels, 1, *kernel), np.int8)
            share = np.full(channels, 1 / (kernel[0] * kernel[1]), np.float32)
            self._keep(number, ones, np.zeros(channels, np.float32), share)
        elif layer.kind == "add":
            for place, factor in enumerate(add_form(layer).factors):
                if factor != 1:
                    self.register_buffer(f"factor_{number}_{place}", torch.full((1,), factor))
        elif layer.kind == "hardsigmoid":
            self.register_buffer(f"three_{number}", torch.full((1,), 3.0))
            self.register_buffer(f"sixth_{number}", torch.full((1,), 1 / 6))

    def _keep(
        self,
        number: int,
        values: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
        bias: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
        scales: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None,
    ) -> None:
        self.register_buffer(f"weight_{number}", torch.from_numpy(values.copy()))
        self.register_buffer(f"bias_{number}", torch.from_numpy(bias.copy()))
        if scales is not None:
            self.register_buffer(f"scales_{number}", torch.from_numpy(scales.copy()))
            self.register_buffer(f"zeros_{number}", torch.zeros(len(scales), dtype=torch.int64))


def averages_by_convolution(layer: Layer) -> bool:
    """Whether an average of integers is written as a depthwise convolution with ones.

    XNNPACK's mean rounds the mean of ``q`` half to even, QNNPACK that of ``q − zero_point``: they
    differ at the ties of an even count when the zero point is odd. Other averages of windows have
    no integer kernel there at all.
    """
    grid = layer.source.grid
    if grid is None:
        return False
    if layer.kind == "average_pool":
        return True
    count = layer.source.shape[-1] * layer.source.shape[-2] if layer.kind == "mean" else 1
    return count % 2 == 0 and grid.zero_point % 2 == 1 and count <= _MOST_TAPS


Real = Tensor | float


def _real(values: dict[str, Tensor], value: Value | float) -> Real:
    if not isinstance(value, Value):
        return value
    return _dequantized(values[value.name], value.grid)


def _dequantized(stored: Tensor, grid: Grid | None) -> Tensor:
    if grid is None:
        return stored
    real: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(
        stored, grid.scale, grid.zero_point - _OFFSET, *_INT8, torch.int8
    )
    return real


def _stored(real: Tensor, grid: Grid | None) -> Tensor:
    if grid is None:
        return real
    stored: Tensor = torch.ops.quantized_decomposed.quantize_per_tensor(
        real, grid.scale, grid.zero_point - _OFFSET, *_INT8, torch.int8
    )
    return stored


def _tensor(layer: Layer, reals: list[Real]) -> Tensor:
    first = reals[0]
    if not isinstance(first, Tensor):
        raise ExportError(f"{layer.operator} takes a number where .pte needs a tensor")
    return first


def _convolution(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    settings = layer.settings
    result = functional.conv2d(
        _tensor(layer, reals),
        module.weight(number),
        module.bias(number),
        settings["stride"],
        settings["padding"],
        settings["dilation"],
        settings["groups"],
    )
    return functional.relu(result) if layer.relu else result


def _linear(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    weight, bias = module.weight(number), module.bias(number)
    result = functional.linear(_tensor(layer, reals), weight, bias)
    return functional.relu(result) if layer.relu else result


def _binary(operator: Callable[[Real, Real], Real]) -> Compute:
    def compute(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
        result = operator(reals[0], reals[1])
        if not isinstance(result, Tensor):
            raise ExportError(f"{layer.operator} has no tensor among its inputs")
        return functional.relu(result) if layer.relu else result

    return compute


def _add(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    """Add as integers, or as floats where those alone give FX's integers."""
    form = add_form(layer)
    if form.integer:
        return _integer_add(module, number, layer, reals)
    first, second = (
        real if factor == 1 else real * getattr(module, f"factor_{number}_{place}")
        for place, (real, factor) in enumerate(zip(reals, form.factors, strict=True))
    )
    # XNNPACK's partitioner makes an integer sum of dequantize, add, quantize, or of a ReLU between
    # them. A clamp between them that it does not look through leaves the sum in float, and is
    # fused into it: it costs nothing.
    total: Any = first + second
    result: Tensor = functional.hardtanh(total, 0.0 if layer.relu else -math.inf, math.inf)
    return result


def _hardsigmoid(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    """Write clamp(x + 3, 0, 6) / 6: XNNPACK has no hard sigmoid."""
    three, sixth = getattr(module, f"three_{number}"), getattr(module, f"sixth_{number}")
    result: Tensor = functional.hardtanh(_tensor(layer, reals) + three, 0.0, 6.0) * sixth
    return result


def _silu(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    x = _tensor(layer, reals)
    return x * torch.sigmoid(x)


def _clamp(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    x, lower, upper = _tensor(layer, reals), layer.settings["lower"], layer.settings["upper"]
    if (lower, upper) == (0.0, None):
        return functional.relu(x)
    return torch.clamp(x, lower, upper)


def _average(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    x = _tensor(layer, reals)
    if averages_by_convolution(layer):
        _, stride, padding = _window(layer)
        weight, bias = module.weight(number), module.bias(number)
        channels = layer.source.shape[0]
        pooled = functional.conv2d(x, weight, bias, stride, padding, (1, 1), channels)
        return pooled if layer.settings.get("keep", True) else pooled.flatten(1)
    if layer.kind == "mean":
        return x.mean((2, 3), keepdim=layer.settings["keep"])
    kernel, stride, padding = _window(layer)
    return functional.avg_pool2d(x, kernel, stride, padding)


def _window(layer: Layer) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    if layer.kind == "mean":
        height, width = layer.source.shape[1:]
        return (height, width), (1, 1), (0, 0)
    settings = layer.settings
    return settings["kernel"], settings["stride"], settings["padding"]


def _max_pool(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    return functional.max_pool2d(_tensor(layer, reals), *_window(layer))


def _reshape(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    return _tensor(layer, reals).reshape(1, *layer.output.shape)


def _permute(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    return _tensor(layer, reals).permute(layer.settings["order"])


def _slice(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    start, end = layer.settings["start"], layer.settings["end"]
    return _tensor(layer, reals).narrow(_axis(layer), start, end - start)


def _axis(layer: Layer) -> int:
    return int(layer.settings["axis"])


def _function(function: Callable[[Tensor], Tensor]) -> Compute:
    def compute(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
        return function(_tensor(layer, reals))

    return compute


def _leaky_relu(module: PteModule, number: int, layer: Layer, reals: list[Real]) -> Tensor:
    return functional.leaky_relu(_tensor(layer, reals), layer.settings["slope"])


Compute = Callable[[PteModule, int, Layer, list[Real]], Tensor]

_integer_add = _binary(lambda a, b: a + b)

_COMPUTE: dict[str, Compute] = {
    "quantize": _function(lambda x: x),
    "convolution": _convolution,
    "linear": _linear,
    "add": _add,
    "mul": _binary(lambda a, b: a * b),
    "clamp": _clamp,
    "hardswish": _function(functional.hardswish),
    "hardsigmoid": _hardsigmoid,
    "sigmoid": _function(torch.sigmoid),
    "tanh": _function(torch.tanh),
    "silu": _silu,
    "leaky_relu": _leaky_relu,
    "mean": _average,
    "average_pool": _average,
    "max_pool": _max_pool,
    "reshape": _reshape,
    "permute": _permute,
    "slice": _slice,
}
