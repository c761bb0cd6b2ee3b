"""Biases that take back the mean error which rounding brings into every channel.

Rounded inputs and weights shift the mean of a layer's output; the shift is known from the
calibration images and is subtracted from the bias, layer by layer in graph order, each seeing what
the corrected layers before it send (Nagel et al. 2019, "Data-free quantization through weight
equalization and bias correction", sec. 4.2, in its empirical form).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from export.layer_correction import MOST_IMAGES, correct_layers, real_output, watch_layers


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
        prepared(images[:MOST_IMAGES])
    return means


def _channel_mean(output: Tensor) -> Tensor:
    return output.mean([d for d in range(output.dim()) if d != 1])


def correct_biases(converted: fx.GraphModule, expected: dict[str, Tensor], images: Tensor) -> None:
    """Shift the bias of every quantized layer so that its mean output is the expected one.

    Args:
        converted: of ``convert_fx``, under engine qnnpack; changed in place.
        expected: of ``output_means``.
        images: the same images.
    """

    def correct(path: str, layer: Any, x: Tensor) -> None:
        weight, bias = layer._weight_bias()
        shift = expected[path] - _channel_mean(real_output(layer, x))
        layer.set_weight_bias(weight, shift if bias is None else bias + shift)

    correct_layers(converted, expected, images, correct)
