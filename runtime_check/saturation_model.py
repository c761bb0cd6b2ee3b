"""A tiny ONNX model whose right answer is known, written without the onnx package.

``y = MatMulInteger(a, b)`` with every a = 255 (uint8) and every b = 127 (int8): a kernel that adds
pairs of u8·s8 products in 16 bits saturates at 32,767 instead of 64,770, and is found out.
"""

from __future__ import annotations

ROWS, DEPTH, COLUMNS = 8, 64, 16
A, B = 255, 127
EXPECTED = DEPTH * A * B

# Field numbers and wire types of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
_UINT8, _INT8, _INT32 = 2, 3, 6
_OPSET = 17
_IR_VERSION = 8


def saturation_model() -> bytes:
    """Return the model: input ``a`` uint8 (8, 64), output ``y`` int32 (8, 16), all 2,072,640."""
    node = _text(1, "a") + _text(1, "b") + _text(2, "y") + _text(4, "MatMulInteger")
    b = _number(1, DEPTH) + _number(1, COLUMNS) + _number(2, _INT8) + _text(8, "b")
    b += _bytes(9, bytes([B]) * (DEPTH * COLUMNS))
    graph = _bytes(1, node) + _text(2, "saturation") + _bytes(5, b)
    graph += _bytes(11, _value("a", _UINT8, (ROWS, DEPTH)))
    graph += _bytes(12, _value("y", _INT32, (ROWS, COLUMNS)))
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _value(name: str, element: int, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(_bytes(1, _number(1, size)) for size in shape)
    tensor = _number(1, element) + _bytes(2, dimensions)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
