"""Bytes of weights and biases: what quantization can shrink, apart from a format's own overhead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of the same weights and biases in FP32 and as stored in INT8.

    Convolution and linear weights count 4 bytes a value in FP32 and 1 in INT8; biases 4 bytes
    in both (int32 or float32). BatchNorm is folded. Scales and zero points are not counted.
    """

    fp32: int
    int8: int


def weight_bytes(converted: nn.Module) -> WeightBytes:
    """Count the weight bytes of a converted FX module and of its FP32 original.

    Args:
        converted: the module that ``quantize_edge`` made; layers left in float keep 4 bytes.

    Returns:
        Bytes of the FP32 original (with BatchNorm folded) and of the INT8 module.
    """
    fp32 = int8 = 0
    for module in converted.modules():
        weight, bias = _weight_and_bias(module)
        if weight is None:
            continue
        stored = 1 if weight.is_quantized else 4
        values = 0 if bias is None else bias.numel()
        fp32 += 4 * (weight.numel() + values)
        int8 += stored * weight.numel() + 4 * values
    return WeightBytes(fp32=fp32, int8=int8)


def float_weight_bytes(module: nn.Module) -> int:
    """Bytes of a float module's parameters in FP32, with every BatchNorm folded away."""
    total = 0
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            # Folded: scale goes into the weights, shift becomes (or joins) the bias.
            total += 4 * child.num_features
        else:
            total += 4 * sum(p.numel() for p in child.parameters(recurse=False))
    return total


def _weight_and_bias(
    module: nn.Module,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    weight = getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    # Quantized modules keep both behind a method, float modules as parameters.
    if callable(weight):
        weight, bias = weight(), bias() if callable(bias) else None
    if not isinstance(weight, torch.Tensor):
        return None, None
    return weight, bias if isinstance(bias, torch.Tensor) else None
