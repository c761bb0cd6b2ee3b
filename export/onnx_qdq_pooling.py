"""QDQ ONNX of the operators that pool, average, pad or resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from export.onnx_qdq_writer import Call, OperatorWriter, QdqWriter, refuse

#: ONNX Runtime's integer kernels of these round ties away from zero; a Round, to even as QNNPACK
#: rounds, keeps them in float.
_ROUNDED_AWAY = ("AveragePool",)


def _max_pool(writer: QdqWriter, call: Call) -> None:
    """Maximum of the stored integers: the order is the same, so nothing is rounded."""
    if call.get("return_indices", 6, False):
        refuse(call.node, "the indices of a max pool are not written")
    kernel = _pair(call.get("kernel_size", 1))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": _pair(call.get("stride", 2)) or kernel,
        "pads": _pair(call.get("padding", 3, 0)) * 2,
        "dilations": _pair(call.get("dilation", 4, 1)),
        "ceil_mode": int(bool(call.get("ceil_mode", 5, False))),
    }
    name = writer.either(call.source)
    result = writer.graph.node("MaxPool", [name], **attributes)
    writer.put_either(call.node, result, call.source)


def _average(writer: QdqWriter, call: Call, kind: str, *extra: str, **attributes: Any) -> None:
    """Average stored integers around their zero point: FX keeps the scale, so it cancels.

    The DequantizeLinear and QuantizeLinear around the operator carry the scale 1 for that reason.
    Averages of few integers often lie exactly between two; float32 multiples of the scale itself
    would round about a third of those otherwise than QNNPACK's integers do.
    """
    node, source = call.node, call.source
    quantized = writer.is_quantized(node) and writer.is_quantized(source)
    if not quantized or writer.quantization(node) != writer.quantization(source):
        _average_of_floats(writer, call, kind, *extra, **attributes)
        return
    unit = writer.graph.constant(f"{node.name}_unit", np.asarray(1.0, np.float32))
    zero_point = writer.parameters(source)[1]
    inputs = [writer.stored(source), unit, zero_point]
    integers = writer.graph.node("DequantizeLinear", inputs)
    mean = writer.inner(call, kind, [integers, *extra], **attributes)
    if kind in _ROUNDED_AWAY:
        mean = writer.inner(call, "Round", [mean])
    rounded = writer.graph.node("QuantizeLinear", [mean, unit, zero_point])
    writer.put_either(node, rounded, source)


def _average_of_floats(
    writer: QdqWriter, call: Call, kind: str, *extra: str, **attributes: Any
) -> None:
    writer.operate(call, kind, [writer.real(call.source), *extra], **attributes)


def _average_pool(writer: QdqWriter, call: Call) -> None:
    if call.get("divisor_override", 6) is not None:
        refuse(call.node, "an average pool with a divisor of its own is not written")
    if call.get("ceil_mode", 4, False):
        refuse(call.node, "an average pool with ceil_mode is not written")
    kernel = _pair(call.get("kernel_size", 1))
    _average(
        writer,
        call,
        "AveragePool",
        kernel_shape=kernel,
        strides=_pair(call.get("stride", 2)) or kernel,
        pads=_pair(call.get("padding", 3, 0)) * 2,
        count_include_pad=int(bool(call.get("count_include_pad", 5, True))),
    )


def _adaptive_average_pool(writer: QdqWriter, call: Call) -> None:
    """Average over whole windows; torch's uneven windows have no ONNX operator."""
    source = writer.shape(call.source)[-2:]
    target = writer.shape(call.node)[-2:]
    if target == (1, 1):
        _average(writer, call, "GlobalAveragePool")
        return
    if any(s % t for s, t in zip(source, target, strict=True)):
        refuse(call.node, f"{source} cannot be divided into {target} windows of one size")
    kernel = [s // t for s, t in zip(source, target, strict=True)]
    _average(writer, call, "AveragePool", kernel_shape=kernel, strides=kernel)


def _mean(writer: QdqWriter, call: Call) -> None:
    axes = call.get("dim", 1)
    keep = int(bool(call.get("keepdim", 2, False)))
    given = list(axes) if isinstance(axes, tuple | list) else [axes]
    rank = len(writer.shape(call.source)) + 1
    if not all(isinstance(axis, int) and axis % rank for axis in given):
        refuse(call.node, f"a mean over the axes {given} is not written")
    ordered = sorted(axis % rank for axis in given)
    # QNNPACK averages images as integers; over other axes torch dequantizes first.
    write = _average if (rank, ordered) == (4, [2, 3]) else _average_of_floats
    # The axes became an input in opset 18.
    if writer.opset < 18:
        write(writer, call, "ReduceMean", axes=ordered, keepdims=keep)
        return
    stored = writer.graph.constant(f"{call.node.name}_axes", np.asarray(ordered, np.int64))
    write(writer, call, "ReduceMean", stored, keepdims=keep)


def _pad(writer: QdqWriter, call: Call) -> None:
    mode, value = call.get("mode", 2, "constant"), call.get("value", 3)
    if mode != "constant" or value not in (None, 0):
        refuse(call.node, "only padding with zeros is written")
    _padded(writer, call, call.get("pad", 1))


def _zero_pad(writer: QdqWriter, call: Call) -> None:
    _padded(writer, call, call.get("padding"))


def _padded(writer: QdqWriter, call: Call, pad: Any) -> None:
    """Turn torch's (before, after) from the last axis on into ONNX's befores, then afters."""
    rank = len(writer.shape(call.source)) + 1
    before, after = [0] * rank, [0] * rank
    for index, width in enumerate(pad):
        (after if index % 2 else before)[rank - 1 - index // 2] = int(width)
    if before[0] or after[0]:
        refuse(call.node, "it pads the batch axis")
    pads = writer.graph.constant(f"{call.node.name}_pads", np.asarray(before + after, np.int64))
    writer.operate(call, "Pad", [writer.real(call.source), pads])


def _resize(writer: QdqWriter, call: Call) -> None:
    """Nearest neighbour by whole factors, on the stored integers."""
    if call.get("mode", 3, "nearest") != "nearest":
        refuse(call.node, "only mode nearest is written")
    before, after = writer.shape(call.source), writer.shape(call.node)
    if any(a % b for a, b in zip(after, before, strict=True)):
        refuse(call.node, f"{before} → {after} is not a whole factor")
    factors = [1.0, *(a / b for a, b in zip(after, before, strict=True))]
    scales = writer.graph.constant(f"{call.node.name}_factors", np.asarray(factors, np.float32))
    result = writer.graph.node(
        "Resize",
        [writer.either(call.source), "", scales],
        f"{call.node.name}_resized",
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    writer.put_either(call.node, result, call.source)


def _pair(value: Any) -> list[int]:
    if value is None or value == ():
        return []
    return [int(v) for v in value] if isinstance(value, tuple | list) else [int(value)] * 2


POOLING: dict[object, OperatorWriter] = {
    **dict.fromkeys((nn.MaxPool2d, functional.max_pool2d, torch.max_pool2d), _max_pool),
    **dict.fromkeys((nn.AvgPool2d, functional.avg_pool2d), _average_pool),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, functional.adaptive_avg_pool2d), _adaptive_average_pool),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    functional.pad: _pad,
    nn.ZeroPad2d: _zero_pad,
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, functional.interpolate), _resize),
}
