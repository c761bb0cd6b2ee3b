"""Weights of one layer as arrays, quantized as FX quantized them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from export.fx_facts import refuse
from export.layers import Value, Weights


def quantized_weights(node: fx.Node, source: Value, weight: Tensor, bias: Tensor | None) -> Weights:
    """Return int8 weights with one scale an output channel and an int32 bias.

    The bias is in units of input scale times weight scale, rounded as torch's QNNPACK does
    (``QuantizeBias`` in ATen/native/quantized/cpu/QuantUtils.h, PyTorch).

    Args:
        node: names the layer in errors.
        source: the layer's input.
        weight: qint8 of shape (O, I / groups, kh, kw) or (O, I), per tensor or per output
            channel, zero point 0.
        bias: float32 (O,), or None for zeros.

    Raises:
        ExportError: the input is in float, or the weight is quantized otherwise.
    """
    if source.grid is None:
        refuse(node, "its weight is quantized and its input is not")
    scales = _scales(node, weight)
    channels = len(weight)
    real = torch.zeros(channels) if bias is None else bias.detach().float()
    units = scales.double() * source.grid.scale
    zeros = torch.zeros(channels, dtype=torch.int64)
    stored = torch.quantize_per_channel(real, units, zeros, 0, torch.qint32).int_repr()
    return Weights(
        values=np.ascontiguousarray(weight.int_repr().numpy(), np.int8),
        bias=stored.numpy().astype(np.int32),
        real_bias=real.numpy().astype(np.float32),
        scales=scales.numpy().astype(np.float32),
    )


def float_weights(weight: Any, bias: Any) -> Weights:
    """Return float32 weights; a missing bias is zeros."""
    values = weight.detach().numpy().astype(np.float32)
    real = np.zeros(len(values), np.float32) if bias is None else bias.detach().numpy()
    real = real.astype(np.float32)
    return Weights(values=np.ascontiguousarray(values), bias=real, real_bias=real)


def _scales(node: fx.Node, weight: Tensor) -> Tensor:
    """Return a weight's scales, float32, one for each output channel."""
    if weight.dtype != torch.qint8:
        refuse(node, f"its weight is {weight.dtype}, not qint8")
    if weight.qscheme() == torch.per_tensor_affine:
        scales = torch.full((len(weight),), weight.q_scale())
        points = torch.tensor(weight.q_zero_point())
    elif weight.qscheme() == torch.per_channel_affine and weight.q_per_channel_axis() == 0:
        scales = weight.q_per_channel_scales().float()
        points = weight.q_per_channel_zero_points()
    else:
        refuse(node, f"its weight is {weight.qscheme()}, not per tensor or output channel")
    if bool((points != 0).any()):
        refuse(node, "its weight has a zero point other than 0")
    usable = torch.isfinite(scales) & (scales >= torch.finfo(torch.float32).tiny)
    if not bool(usable.all()):
        refuse(node, "a scale of its weight is no normal float32 number")
    return scales.float()
