"""Weights of one layer as arrays, quantized as FX quantized them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from export.fx_facts import refuse
from export.layers import Value, Weights

_MOST_NEIGHBOURS = 3
_STEPS = 255


def quantized_weights(
    node: fx.Node, source: Value, output: Value, weight: Tensor, bias: Tensor | None
) -> Weights:
    """Return int8 weights with one scale an output channel and an int32 bias.

    The bias is in units of input scale times weight scale, rounded as torch's QNNPACK does
    (``QuantizeBias`` in ATen/native/quantized/cpu/QuantUtils.h, PyTorch). Scales: see
    `requantizing_scales`.

    Args:
        node: names the layer in errors.
        source: the layer's input.
        output: what the layer gives.
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
    if output.grid is None:
        refuse(node, "its weight is quantized and its output is not")
    real = torch.zeros(channels) if bias is None else bias.detach().float()
    units = scales.double() * source.grid.scale
    zeros = torch.zeros(channels, dtype=torch.int64)
    stored = torch.quantize_per_channel(real, units, zeros, 0, torch.qint32).int_repr()
    steps = stored.numpy().astype(np.int32)
    shipped = requantizing_scales(scales.numpy(), source.grid.scale, output.grid.scale)
    # On its own steps, so that what rounds it again gets the same integers.
    on_steps = steps * (shipped.astype(np.float64) * source.grid.scale)
    return Weights(
        values=np.ascontiguousarray(weight.int_repr().numpy(), np.int8),
        bias=steps,
        real_bias=on_steps.astype(np.float32),
        scales=shipped,
    )


def requantizing_scales(
    scales: npt.NDArray[np.float32], source: float, output: float
) -> npt.NDArray[np.float32]:
    """Return scales, shape (O,), with which XNNPACK multiplies sums by the very factor of QNNPACK.

    QNNPACK multiplies by ``(weight · input) · (1 / output)`` (``generate_requantization_scales`` in
    ATen/native/quantized/cpu/QnnpackUtils.h, PyTorch), XNNPACK by ``input · weight / output``, both
    in float32. The last bits of the two differ, and about one sum in a million then lies on the
    other side of a half. Each scale is moved by at most three float32 neighbours: to the nearest
    that gives the same factor, or, where none does (about a tenth of the channels), to that with
    which the fewest sums are rounded otherwise.

    Args:
        scales: FX's weight scales, float32 (O,), normal numbers.
        source: scale of the input.
        output: scale of the output.
    """
    given, step = np.float32(source), np.float32(output)
    wanted = (scales * given) * (np.float32(1) / step)
    found = scales.copy()
    fewest = np.full(len(scales), np.iinfo(np.int64).max)
    for candidate in _neighbours(scales):
        off = _rounded_otherwise(wanted, given * candidate / step)
        found = np.where(off < fewest, candidate, found)
        fewest = np.minimum(off, fewest)
    return found


def _rounded_otherwise(
    wanted: npt.NDArray[np.float32], factors: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Count the sums whose product is rounded to another step, by channel, shape (O,).

    Factors are neighbours: only a sum that falls on a half, or beside it, can tell them apart, and
    there is one for each half of a step that uint8 holds. Equal factors count −1.
    """
    halves = np.arange(_STEPS)[:, None] + 0.5
    sums = np.rint(halves / wanted.astype(np.float64)).astype(np.float32)
    off = (np.rint(sums * wanted) != np.rint(sums * factors)).sum(0)
    return np.where(factors == wanted, -1, off)


def _neighbours(scales: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the scales themselves and then their float32 neighbours, the nearest first."""
    below = above = scales
    yield scales
    for _ in range(_MOST_NEIGHBOURS):
        below = np.nextafter(below, np.float32(0))
        above = np.nextafter(above, np.float32(np.inf))
        yield from (below, above)


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
