"""QDQ ONNX of hard-sigmoid and hard-swish in integers, where all 256 results are FX's own.

ONNX Runtime has integer kernels for neither and computes them in float: about ten instructions a
value. Both can be said in operators that have such kernels. What is written is first computed for
every integer that can be stored and compared with torch's operator; if one differs, the operator is
written in float, as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.nn import functional

from export.onnx_qdq_writer import Call, QdqWriter

_MAX = 255
_CODES = np.arange(_MAX + 1)
#: Relative changes of a scale that take a result from between two integers to FX's one.
_NUDGES = (0.0, *(sign * size for size in (1e-6, 3e-6, 1e-5, 1e-4) for sign in (1.0, -1.0)))

Codes = npt.NDArray[np.int64]
Quantization = tuple[float, int]


def hardsigmoid(writer: QdqWriter, call: Call) -> None:
    """Write ``clamp(x/6 + 1/2, 0, 1)`` as another scale for the same numbers.

    With a zero point at 1/2 the ends of uint8 are the ends of the clamp. The LeakyRelu is the
    identity; ONNX Runtime makes one table of it and of the nodes around it. Where every result has
    the integer that it is made of, there is nothing to write.
    """
    node, source = call.node, call.source
    if _same_codes(writer, node, source):
        writer.put_stored(node, writer.stored(source))
        return
    scaled = _rescaled(writer, node, source)
    if scaled is None:
        writer.operate(call, "HardSigmoid", [writer.real(source)], alpha=1 / 6, beta=0.5)
        return
    same = writer.inner(call, "LeakyRelu", [writer.real(source)], alpha=1.0)
    writer.put_stored(node, writer.graph.node("QuantizeLinear", [same, *scaled]))


def hardswish(writer: QdqWriter, call: Call) -> None:
    """Write ``x · clamp(x + 3, 0, 6) / 6`` as a product of two stored tensors.

    Where 3 is a whole number of steps, x + 3 is stored exactly, and the clamp is one of integers.
    """
    node, source = call.node, call.source
    found = _steps_to_three(writer, node, source)
    if found is None:
        writer.operate(call, "HardSwish", [writer.real(source)])
        return
    share = _share(writer, call, *found)
    writer.operate(call, "Mul", [writer.real(source), share])


def _same_codes(writer: QdqWriter, node: fx.Node, source: fx.Node) -> bool:
    if not (writer.is_quantized(node) and writer.is_quantized(source)):
        return False
    return np.array_equal(_table(functional.hardsigmoid, writer.quantization(source)), _CODES)


def _rescaled(writer: QdqWriter, node: fx.Node, source: fx.Node) -> list[str] | None:
    """Return the parameters that quantize x to hard-sigmoid's integers, if there are such."""
    if not (writer.is_quantized(node) and writer.is_quantized(source)):
        return None
    scale, zero_point = writer.quantization(node)
    wide, middle = np.float32(6 * scale), round(0.5 / scale) + zero_point
    given, zero = writer.quantization(source)
    real = (_CODES - zero).astype(np.float32) * np.float32(given)
    found = np.clip(np.rint(real / wide) + middle, 0, _MAX)
    wanted = _table(functional.hardsigmoid, (given, zero))
    if middle > _MAX or not np.array_equal(found, wanted):
        return None
    return [
        writer.graph.constant(f"{node.name}_wide", np.asarray(wide, np.float32)),
        writer.graph.constant(f"{node.name}_middle", np.asarray(middle, np.uint8)),
    ]


def _steps_to_three(
    writer: QdqWriter, node: fx.Node, source: fx.Node
) -> tuple[int, np.float32] | None:
    """Return 3 in steps of the source's scale, and the scale of the stored x + 3.

    None where the product is not exact for every integer.
    """
    if not (writer.is_quantized(node) and writer.is_quantized(source)):
        return None
    (scale, zero), (out, shift) = writer.quantization(source), writer.quantization(node)
    steps = round(3 / scale)
    if not 1 <= steps <= _MAX // 2:
        return None

    def written(x: Tensor) -> Tensor:
        found: Tensor = torch.ops.quantized.hardswish(x, out, shift)
        return found

    wanted = _table(written, (scale, zero)) - shift
    values = (_CODES - zero).astype(np.float32)
    shares = np.clip(_CODES - zero + steps, 0, 2 * steps).astype(np.float32)
    for nudge in _NUDGES:
        unit = np.float32((1 + nudge) / (2 * steps))
        # The integer kernel multiplies integers first, the float operators scale them first.
        fused = values * shares * (np.float32(scale) * unit / np.float32(out))
        apart = (values * np.float32(scale)) * (shares * unit) / np.float32(out)
        rounded = [np.clip(np.rint(found), -shift, _MAX - shift) for found in (fused, apart)]
        if all(np.array_equal(found, wanted) for found in rounded):
            return steps, unit
    return None


def _share(writer: QdqWriter, call: Call, steps: int, scale: np.float32) -> str:
    """Return ``clamp(x + 3, 0, 6) / 6``, float32, behind a DequantizeLinear."""
    zero = writer.quantization(call.source)[1]
    lowest = zero - steps
    if lowest < 0:
        # x never reaches -3; at the other end uint8 itself is the clamp.
        lowest = _MAX - 2 * steps
        stored = _raised(writer, call, steps, lowest)
    else:
        stored = _clipped(writer, writer.stored(call.source), lowest, lowest + 2 * steps)
    unit = writer.graph.constant("unit", np.asarray(scale))
    return writer.graph.node("DequantizeLinear", [stored, unit, _constant(writer, lowest)])


def _clipped(writer: QdqWriter, stored: str, lowest: int, highest: int) -> str:
    bounds = [_constant(writer, lowest) if lowest > 0 else ""]
    if highest < _MAX:
        bounds.append(_constant(writer, highest))
    return writer.graph.node("Clip", [stored, *bounds]) if any(bounds) else stored


def _raised(writer: QdqWriter, call: Call, steps: int, zero_point: int) -> str:
    """Return the integers of x + 3 at the same scale, another zero point: a sum of whole steps."""
    scale = writer.parameters(call.source)[0]
    three = [_constant(writer, steps), scale, _constant(writer, 0)]
    inputs = [writer.real(call.source), writer.graph.node("DequantizeLinear", three)]
    total = writer.inner(call, "Add", inputs)
    return writer.graph.node("QuantizeLinear", [total, scale, _constant(writer, zero_point)])


def _table(function: Callable[[Tensor], Tensor], given: Quantization) -> Codes:
    """Return what torch's operator makes of every stored integer."""
    codes: Any = torch.arange(_MAX + 1, dtype=torch.uint8)
    x = torch._make_per_tensor_quantized_tensor(codes, *given)
    return np.asarray(function(x).int_repr().numpy(), np.int64)


def _constant(writer: QdqWriter, value: int) -> str:
    return writer.graph.constant("number", np.asarray(value, np.uint8))
