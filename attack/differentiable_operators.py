"""ONNX operators in differentiable torch: those of the float exporter and of the QDQ writer.

Each function takes a node's inputs in order (None where omitted) and its attributes by name, as
https://onnx.ai/onnx/operators/ defines them for opset 17 to 21.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from records.errors import UnsupportedHereError

Operator = Callable[..., Any]
_UINT8 = (0.0, 255.0)


class _Quantize(torch.autograd.Function):
    """Round half to even and clip; the gradient passes as if nothing was rounded.

    Inside a network nothing passes beyond the range: there the clip is also the ReLU that was
    fused into it. At the ``boundary`` it passes when a step against it leads back inside: what is
    observed beyond the range still says in which direction the value has to go.
    """

    @staticmethod
    def forward(ctx: Any, steps: Tensor, low: float, high: float, boundary: bool) -> Tensor:
        ctx.save_for_backward(steps)
        ctx.range, ctx.boundary = (low, high), boundary
        return torch.round(steps).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (steps,) = ctx.saved_tensors
        (gradient,) = gradients
        below, above = steps < ctx.range[0], steps > ctx.range[1]
        if ctx.boundary:
            below, above = below & (gradient > 0), above & (gradient < 0)
        return gradient.masked_fill(below | above, 0.0), None, None, None


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """Shape a scale or zero point for broadcasting along one axis."""
    if parameter.ndim == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    axis: int = 1,
    boundary: bool = False,
) -> Tensor:
    """Return whole steps 0 … 255 as float32, with straight-through gradients.

    Args:
        x: float32 of any shape.
        scale: of one step.
        zero: zero point, one for the tensor.
        axis: of a scale with many values.
        boundary: the result is what is sent, see `_Quantize`.
    """
    steps = x / _along(scale, x, axis)
    offset = 0.0 if zero is None else float(zero)
    low, high = (bound - offset for bound in _UINT8)
    # Rounded before the zero point is added, as the standard says: ties go to even without it.
    rounded: Tensor = _Quantize.apply(steps, low, high, boundary)
    return rounded + offset


def _dequantize(q: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    centred = q if zero is None else q - _along(zero, q, axis).to(q.dtype)
    return (centred * _along(scale, q, axis).to(q.dtype)).float()


def _padded(x: Tensor, pads: list[int] | None, value: float = 0.0) -> Tensor:
    """Pad the spatial axes by ONNX's befores and afters."""
    if pads is None or not any(pads):
        return x
    half = len(pads) // 2
    order = [side for k in reversed(range(half)) for side in (pads[k], pads[half + k])]
    return functional.pad(x, order, value=value)


def _explicit(auto_pad: bytes) -> None:
    if auto_pad not in (b"NOTSET", b"VALID"):
        raise UnsupportedHereError(
            f"the white-box attack cannot differentiate auto_pad {auto_pad.decode()}; leave A2 out "
            "of the levels"
        )


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: int = 1,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    kernel_shape: list[int] | None = None,
    auto_pad: bytes = b"NOTSET",
) -> Tensor:
    _explicit(auto_pad)
    spatial = x.ndim - 2
    stride, dilation = strides or [1] * spatial, dilations or [1] * spatial
    given = pads or [0] * (2 * spatial)
    even = given[:spatial] == given[spatial:]
    convolve = functional.conv1d if spatial == 1 else functional.conv2d
    source = x if even else _padded(x, given)
    padding = given[:spatial] if even else [0] * spatial
    return convolve(source, weight, bias, stride, padding, dilation, group)


def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: int = 1,
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    output_padding: list[int] | None = None,
    kernel_shape: list[int] | None = None,
    auto_pad: bytes = b"NOTSET",
) -> Tensor:
    _explicit(auto_pad)
    padding = (pads or [0] * 4)[:2]
    return functional.conv_transpose2d(
        x,
        weight,
        bias,
        strides or [1, 1],
        padding,
        output_padding or [0, 0],
        group,
        dilations or [1, 1],
    )


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - ONNX's name
    transB: int = 0,  # noqa: N803
) -> Tensor:
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    return functional.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


def _layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> Tensor:
    return functional.layer_norm(x, list(x.shape[axis:]), scale, bias, epsilon)


class _Clamp(torch.autograd.Function):
    """Clip at the boundary: gradients as in `_Quantize`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(x, low, high)
        return torch.clamp(x, low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, low, high = ctx.saved_tensors
        (gradient,) = gradients
        stuck = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient.masked_fill(stuck, 0.0), None, None


def clip(
    x: Tensor, low: Tensor | None = None, high: Tensor | None = None, *, boundary: bool = False
) -> Tensor:
    """Clip to bounds (0-d, None for no bound); ``boundary`` as in `quantize`."""
    if not boundary:
        return torch.clamp(x, low, high) if low is not None or high is not None else x
    lowest = torch.tensor(-torch.inf) if low is None else low
    highest = torch.tensor(torch.inf) if high is None else high
    clamped: Tensor = _Clamp.apply(x, lowest, highest)
    return clamped


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    dilations: list[int] | None = None,
    ceil_mode: int = 0,
) -> Tensor:
    given = pads or [0] * 4
    return functional.max_pool2d(
        x,
        kernel_shape,
        strides or [1, 1],
        given[:2],
        dilations or [1, 1],
        bool(ceil_mode),
    )


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    strides: list[int] | None = None,
    pads: list[int] | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    return functional.avg_pool2d(
        x,
        kernel_shape,
        strides or [1, 1],
        (pads or [0] * 4)[:2],
        bool(ceil_mode),
        bool(count_include_pad),
    )


def _reduce_mean(
    x: Tensor,
    stored_axes: Tensor | None = None,
    *,
    axes: list[int] | None = None,
    keepdims: int = 1,
) -> Tensor:
    # The axes became an input in opset 18.
    given = axes if stored_axes is None else [int(a) for a in stored_axes]
    return x.mean(given, keepdim=bool(keepdims))


def _pad(
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: bytes = b"constant",
) -> Tensor:
    order = [int(p) for p in pads]
    fill = 0.0 if value is None else float(value)
    return _padded(x, order, fill)


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    # 0 copies the axis; a float cannot stand here, shapes are int64.
    sizes = [x.shape[k] if int(s) == 0 else int(s) for k, s in enumerate(shape)]
    return x.reshape(sizes)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _axes_of(given: list[int] | None, stored: Tensor | None) -> list[int]:
    return given or ([] if stored is None else [int(a) for a in stored])


def _squeeze(x: Tensor, stored: Tensor | None = None, *, axes: list[int] | None = None) -> Tensor:
    found = _axes_of(axes, stored)
    return x.squeeze(found) if found else x.squeeze()


def _unsqueeze(x: Tensor, stored: Tensor | None = None, *, axes: list[int] | None = None) -> Tensor:
    for axis in sorted(_axes_of(axes, stored)):
        x = x.unsqueeze(axis)
    return x


def _split(
    x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int = 2
) -> tuple[Tensor, ...]:
    if sizes is None:
        return x.tensor_split(num_outputs, axis)
    return torch.split(x, [int(s) for s in sizes], axis)


def _slice(
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    count = len(starts)
    where = range(count) if axes is None else [int(a) for a in axes]
    stride = [1] * count if steps is None else [int(s) for s in steps]
    cut = [slice(None)] * x.ndim
    for k, axis in enumerate(where):
        cut[axis] = slice(int(starts[k]), int(ends[k]), stride[k])
    return x[tuple(cut)]


def _gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    # Indices that are stored as int32 come as float64 here, like a bias.
    flat = x.index_select(axis, index.reshape(-1).long())
    return flat.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _tile(x: Tensor, counts: Tensor) -> Tensor:
    return x.repeat(*(int(count) for count in counts))


def _resize(x: Tensor, roi: Any, scales: Tensor, *_: Any, mode: bytes, **__: Any) -> Tensor:
    """Nearest neighbour by whole factors, the only kind that the QDQ writer writes."""
    for axis, factor in enumerate(scales):
        x = x.repeat_interleave(int(factor), axis) if int(factor) > 1 else x
    return x


def _round(x: Tensor) -> Tensor:
    rounded: Tensor = _Round.apply(x)
    return rounded


OPERATORS: dict[str, Operator] = {
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": clip,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _dequantize,
    "Div": torch.div,
    "Elu": lambda x, *, alpha=1.0: functional.elu(x, alpha),
    "Erf": torch.erf,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0.0, 1.0),
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: functional.leaky_relu(x, alpha),
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "Pad": _pad,
    "QuantizeLinear": quantize,
    "ReduceMean": _reduce_mean,
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _round,
    "Shape": lambda x: torch.tensor(x.shape, dtype=torch.int64),
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": lambda x, *, axis=-1: torch.softmax(x, axis),
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Tile": _tile,
    "Transpose": lambda x, *, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
}
