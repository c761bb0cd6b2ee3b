"""A tiny ONNX model whose right answer is known, written without the onnx package.

``y = MatMulInteger(a, b)`` with every a = 255 (uint8) and every b = 127 (int8): a kernel that adds
pairs of u8·s8 products in 16 bits saturates at 32,767 instead of 64,770, and is found out.
"""

from __future__ import annotations

from runtime_check.onnx_bytes import IR_VERSION, OPSET, UINT8, chunk, number, text, value

ROWS, DEPTH, COLUMNS = 8, 64, 16
A, B = 255, 127
EXPECTED = DEPTH * A * B

# TensorProto.DataType of onnx.proto3.
_INT8, _INT32 = 3, 6


def saturation_model() -> bytes:
    """Return the model: input ``a`` uint8 (8, 64), output ``y`` int32 (8, 16), all 2,072,640."""
    node = text(1, "a") + text(1, "b") + text(2, "y") + text(4, "MatMulInteger")
    b = number(1, DEPTH) + number(1, COLUMNS) + number(2, _INT8) + text(8, "b")
    b += chunk(9, bytes([B]) * (DEPTH * COLUMNS))
    graph = chunk(1, node) + text(2, "saturation") + chunk(5, b)
    graph += chunk(11, value("a", UINT8, (ROWS, DEPTH)))
    graph += chunk(12, value("y", _INT32, (ROWS, COLUMNS)))
    opset = text(1, "") + number(2, OPSET)
    return number(1, IR_VERSION) + chunk(7, graph) + chunk(8, opset)
