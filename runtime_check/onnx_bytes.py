"""ONNX models written byte by byte, where the onnx package is not installed.

Field numbers and wire types of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

#: TensorProto.DataType.
FLOAT, UINT8 = 1, 2
OPSET = 17
IR_VERSION = 8


def identity_model(shape: tuple[int, ...]) -> bytes:
    """Return a model that gives back its input: ``x`` float32 (1, *shape) → ``y``, the same."""
    node = text(1, "x") + text(2, "y") + text(4, "Identity")
    graph = chunk(1, node) + text(2, "identity")
    graph += chunk(11, value("x", FLOAT, (1, *shape))) + chunk(12, value("y", FLOAT, (1, *shape)))
    opset = text(1, "") + number(2, OPSET)
    return number(1, IR_VERSION) + chunk(7, graph) + chunk(8, opset)


def value(name: str, element: int, shape: tuple[int, ...]) -> bytes:
    """Return a ValueInfoProto: a tensor's name, element type and fixed shape."""
    dimensions = b"".join(chunk(1, number(1, size)) for size in shape)
    tensor = number(1, element) + chunk(2, dimensions)
    return text(1, name) + chunk(2, chunk(1, tensor))


def number(field: int, content: int) -> bytes:
    """Return a field with a non-negative integer."""
    return _varint(field << 3) + _varint(content)


def text(field: int, content: str) -> bytes:
    """Return a field with a text."""
    return chunk(field, content.encode())


def chunk(field: int, content: bytes) -> bytes:
    """Return a field with bytes or an embedded message."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
