"""BatchNorm statistics estimated anew on the quantized edge, as factors on folded layers.

Rounded weights and inputs change mean and variance of a layer's output, and its BatchNorm goes on
normalizing by those of the float network. With its statistics estimated anew on what the quantized
layer sends, BatchNorm would give every channel the mean and variance of the float network again
(Nagel et al. 2022, "Overcoming oscillations in quantization-aware training", do so after training;
here it is done after calibration). It is folded by then, so the same is done to the folded layer:
y → a·y + b with a = σ_float / σ_int8 and b = μ_float − a·μ_int8, both over the calibration images,
layer by layer in graph order, each seeing what the corrected layers before it send.

With per-channel weights a goes into the channel's scale and no stored integer changes; with
per-tensor weights the weight is rounded again. Layers without BatchNorm are left alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from export.layer_correction import MOST_IMAGES, correct_layers, real_output, watch_layers


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel over images and positions, float32 (C,)."""

    mean: Tensor
    deviation: Tensor


def output_moments(
    prepared: fx.GraphModule, layers: Collection[str], images: Tensor
) -> dict[str, Moments]:
    """Return the moments of float layers' outputs, before a fused ReLU.

    Args:
        prepared: of ``prepare_fx``, observers passing everything on; run in float.
        layers: module paths of those that a BatchNorm follows.
        images: preprocessed calibration images, float32 (N, 3, S, S); the first 512 are used.
    """
    moments: dict[str, Moments] = {}

    def keep(path: str, output: Tensor) -> None:
        if path in layers:
            moments[path] = _moments(output)

    with watch_layers(prepared, keep), torch.inference_mode():
        prepared(images[:MOST_IMAGES])
    return moments


def _moments(output: Tensor) -> Moments:
    axes = [d for d in range(output.dim()) if d != 1]
    return Moments(output.mean(axes), output.std(axes, correction=0))


def reestimate(converted: fx.GraphModule, expected: dict[str, Moments], images: Tensor) -> None:
    """Give every channel of the quantized layers the moments of the float ones.

    Args:
        converted: of ``convert_fx``, under engine qnnpack; changed in place.
        expected: of ``output_moments``.
        images: the same images.
    """

    def correct(path: str, layer: Any, x: Tensor) -> None:
        weight, bias = layer._weight_bias()
        seen, wanted = _moments(real_output(layer, x)), expected[path]
        # A channel that says nothing in one of the two has no factor, only a shift.
        speaks = (seen.deviation > 0) & (wanted.deviation > 0)
        factor = torch.where(speaks, wanted.deviation / seen.deviation, 1.0)
        shift = wanted.mean - factor * seen.mean
        moved = shift if bias is None else factor * bias + shift
        layer.set_weight_bias(_times(weight, factor), moved)

    correct_layers(converted, expected, images, correct)


def _times(weight: Tensor, factor: Tensor) -> Tensor:
    """Return a quantized weight with its output channels multiplied by positive factors."""
    if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        return torch._make_per_channel_quantized_tensor(
            weight.int_repr(),
            weight.q_per_channel_scales() * factor,
            weight.q_per_channel_zero_points(),
            weight.q_per_channel_axis(),
        )
    real = weight.dequantize() * factor.reshape(-1, *(1,) * (weight.dim() - 1))
    scale = float(real.abs().max()) / 127.5
    return torch.quantize_per_tensor(real, scale, weight.q_zero_point(), torch.qint8)
