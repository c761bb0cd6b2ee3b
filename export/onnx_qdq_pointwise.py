"""QDQ ONNX of the operators that act on each value: activations, clamps, sums, products."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.ao.nn import quantized
from torch.nn import functional

from export.onnx_qdq_hard import hardsigmoid, hardswish
from export.onnx_qdq_shapes import on_pixels
from export.onnx_qdq_writer import Call, OperatorWriter, QdqWriter, refuse

_UINT8 = (0, 255)
#: Multiplications that are not started: from so many on they outweigh a Tile (some 3,000
#: instructions; starting one takes 230).
_SPARED_STARTS = 24


def put_rectified(writer: QdqWriter, call: Call, result: str, rectified: bool) -> None:
    """Quantize a float32 result, with the ReLU that FX fused into the operator.

    Rounding is monotone, so ``quantize(max(x, 0)) = max(quantize(x), zero_point)``: the ReLU is a
    clamp of the stored integers, and no node at all where the zero point is 0. The operator then
    stands directly before its QuantizeLinear, which is what runtimes fuse.
    """
    node = call.node
    if not rectified:
        writer.put_real(node, result)
        return
    if not writer.is_quantized(node):
        writer.put_real(node, writer.inner(call, "Relu", [result]))
        return
    zero_point = writer.quantization(node)[1]
    writer.put_real(node, result)
    if zero_point > 0:
        writer.put_either(node, _clip(writer, node, zero_point, None, node), node)


def _clip(
    writer: QdqWriter, node: fx.Node, lower: float | None, upper: float | None, source: fx.Node
) -> str:
    """Clamp the stored integers, or the floats, of ``source``."""
    dtype = np.uint8 if writer.is_quantized(source) else np.float32
    inputs = [writer.either(source)]
    for name, bound in (("lower", lower), ("upper", upper)):
        given = bound is not None
        array = np.asarray(bound if given else 0, dtype)
        inputs.append(writer.graph.constant(f"{node.name}_{name}", array) if given else "")
    while not inputs[-1]:
        inputs.pop()
    return writer.graph.node("Clip", inputs)


def _clamp(writer: QdqWriter, call: Call, lower: float | None, upper: float | None) -> None:
    """Clamp to real bounds; the stored integers of a quantized tensor, exactly as torch does."""
    node, source = call.node, call.source
    if not writer.is_quantized(node):
        writer.put_real(node, _clip(writer, node, lower, upper, source))
        return
    lowest, highest = (_quantized_bound(writer, source, bound) for bound in (lower, upper))
    lowest = None if lowest == _UINT8[0] else lowest
    highest = None if highest == _UINT8[1] else highest
    if lowest is None and highest is None:
        writer.put_either(node, writer.stored(source), source)
        return
    writer.put_either(node, _clip(writer, node, lowest, highest, source), source)


def _quantized_bound(writer: QdqWriter, source: fx.Node, bound: float | None) -> int | None:
    if bound is None:
        return None
    scale, zero_point = writer.quantization(source)
    stored = torch.quantize_per_tensor(torch.tensor([bound]), scale, zero_point, torch.quint8)
    return int(stored.int_repr())


def _relu(writer: QdqWriter, call: Call) -> None:
    _clamp(writer, call, 0.0, None)


def _relu6(writer: QdqWriter, call: Call) -> None:
    _clamp(writer, call, 0.0, 6.0)


def _hardtanh(writer: QdqWriter, call: Call) -> None:
    _clamp(writer, call, _number(call, "min_val", 1, -1.0), _number(call, "max_val", 2, 1.0))


def _clamp_method(writer: QdqWriter, call: Call) -> None:
    _clamp(writer, call, _number(call, "min", 1, None), _number(call, "max", 2, None))


def _number(call: Call, name: str, position: int, default: float | None) -> float | None:
    found = call.get(name, position, default)
    if found is None:
        return None
    if not isinstance(found, int | float) or not math.isfinite(found):
        refuse(call.node, f"{name} = {found!r} is no finite number")
    return float(found)


def _sigmoid(writer: QdqWriter, call: Call) -> None:
    writer.operate(call, "Sigmoid", [writer.real(call.source)])


def _tanh(writer: QdqWriter, call: Call) -> None:
    writer.operate(call, "Tanh", [writer.real(call.source)])


def _elu(writer: QdqWriter, call: Call) -> None:
    # torch.ops.quantized.elu has the output's scale and zero point before alpha.
    position = 3 if call.node.target is torch.ops.quantized.elu else 1
    alpha = _number(call, "alpha", position, 1.0)
    writer.operate(call, "Elu", [writer.real(call.source)], alpha=alpha)


def _leaky_relu(writer: QdqWriter, call: Call) -> None:
    alpha = _number(call, "negative_slope", 1, 0.01)
    writer.operate(call, "LeakyRelu", [writer.real(call.source)], alpha=alpha)


def _silu(writer: QdqWriter, call: Call) -> None:
    source = writer.real(call.source)
    writer.operate(call, "Mul", [source, writer.inner(call, "Sigmoid", [source])])


def _gelu(writer: QdqWriter, call: Call) -> None:
    """Write x/2 · (1 + erf(x/√2)); ONNX has the operator itself from opset 20 on."""
    if call.get("approximate", None, "none") != "none":
        refuse(call.node, "only the exact GELU is written")
    source = writer.real(call.source)
    scaled = writer.inner(call, "Mul", [source, writer.real(1 / math.sqrt(2))])
    error = writer.inner(call, "Erf", [scaled])
    share = writer.inner(call, "Add", [error, writer.real(1.0)])
    half = writer.inner(call, "Mul", [source, writer.real(0.5)])
    writer.operate(call, "Mul", [half, share])


def _softmax(writer: QdqWriter, call: Call) -> None:
    axis = call.get("dim", 1)
    if not isinstance(axis, int) or axis in (0, -len(writer.shape(call.node)) - 1):
        refuse(call.node, f"a softmax over axis {axis} is not written")
    writer.operate(call, "Softmax", [writer.real(call.source)], axis=axis)


def _binary(kind: str, *, rectified: bool = False) -> OperatorWriter:
    def write(writer: QdqWriter, call: Call) -> None:
        if call.node.kwargs:
            refuse(call.node, f"arguments {sorted(call.node.kwargs)} are not written")
        arguments = call.node.args[:2]
        repeats = _repeats(writer, arguments) if kind == "Mul" else (0, 0)
        inputs = [
            _row(writer, argument, count) if count else writer.real(argument)
            for argument, count in zip(arguments, repeats, strict=True)
        ]
        put_rectified(writer, call, writer.inner(call, kind, inputs), rectified)

    return write


def _repeats(writer: QdqWriter, factors: Sequence[Any]) -> tuple[int, int]:
    """Return how often each factor is repeated along the width of the other: mostly not, 0.

    Where channels come last, ONNX Runtime multiplies an image (C, H, W) by one value a channel,
    (C, 1, 1), C values at a time: of sixteen channels that costs more for starting than for
    multiplying. A whole row at a time costs a third.
    """
    if not all(isinstance(factor, fx.Node) and writer.is_quantized(factor) for factor in factors):
        return 0, 0
    first, second = (writer.shape(factor) for factor in factors)
    return _width(first, second), _width(second, first)


def _width(factor: tuple[int, ...], image: tuple[int, ...]) -> int:
    if len(image) != 3 or factor != (image[0], 1, 1):
        return 0
    _, height, width = image
    return width if height * (width - 1) >= _SPARED_STARTS else 0


def _row(writer: QdqWriter, factor: Any, count: int) -> str:
    """Return (N, C, 1, count), float32, behind a DequantizeLinear."""
    counts = writer.graph.constant("counts", np.asarray((1, 1, 1, count), np.int64))
    row = writer.graph.node("Tile", [writer.stored(factor), counts])
    return writer.graph.node("DequantizeLinear", [row, *writer.parameters(factor)])


_ADD, _MUL = _binary("Add"), _binary("Mul")
_SUB, _DIV = _binary("Sub"), _binary("Div")

POINTWISE: dict[object, OperatorWriter] = {
    **dict.fromkeys((nn.ReLU, functional.relu, torch.relu, "relu", "relu_"), on_pixels(_relu)),
    **dict.fromkeys((nn.ReLU6, quantized.ReLU6, functional.relu6), on_pixels(_relu6)),
    **dict.fromkeys((nn.Hardtanh, functional.hardtanh), _hardtanh),
    **dict.fromkeys((torch.clamp, "clamp", "clamp_"), _clamp_method),
    **dict.fromkeys(
        (nn.Hardswish, quantized.Hardswish, functional.hardswish, torch.ops.quantized.hardswish),
        on_pixels(hardswish),
    ),
    **dict.fromkeys((nn.Hardsigmoid, functional.hardsigmoid), hardsigmoid),
    **dict.fromkeys(
        (nn.Sigmoid, quantized.Sigmoid, torch.sigmoid, functional.sigmoid, "sigmoid"), _sigmoid
    ),
    **dict.fromkeys((nn.Tanh, torch.tanh, functional.tanh, "tanh"), _tanh),
    **dict.fromkeys((nn.ELU, quantized.ELU, functional.elu, torch.ops.quantized.elu), _elu),
    **dict.fromkeys(
        (
            nn.LeakyReLU,
            quantized.LeakyReLU,
            functional.leaky_relu,
            torch.ops.quantized.leaky_relu,
        ),
        _leaky_relu,
    ),
    **dict.fromkeys((nn.SiLU, functional.silu), _silu),
    **dict.fromkeys((nn.GELU, functional.gelu), _gelu),
    **dict.fromkeys(
        (nn.Softmax, quantized.Softmax, functional.softmax, torch.softmax, "softmax"), _softmax
    ),
    **dict.fromkeys((torch.ops.quantized.add, torch.add, operator.add, "add"), _ADD),
    **dict.fromkeys((torch.ops.quantized.mul, torch.mul, operator.mul, "mul"), _MUL),
    **dict.fromkeys((torch.sub, operator.sub, "sub"), _SUB),
    **dict.fromkeys((torch.div, operator.truediv, "div"), _DIV),
    torch.ops.quantized.add_relu: _binary("Add", rectified=True),
    torch.ops.quantized.mul_relu: _binary("Mul", rectified=True),
    **dict.fromkeys((torch.ops.quantized.matmul, torch.matmul, operator.matmul), _binary("MatMul")),
}
