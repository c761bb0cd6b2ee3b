"""The parts of LiteRT's flatbuffer schema that a bundle's ``.tflite`` may use.

Source: ``tflite/converter/schema/schema.fbs`` of LiteRT. Custom operators, sparse and variable
tensors, signatures, metadata and data outside the file are left out, and refused by that.
"""

from __future__ import annotations

from export.flatbuffer import Schema, Slot, slots

IDENTIFIER = b"TFL3"

FLOAT32, INT32, UINT8, INT8 = 0, 2, 3, 9
#: TensorType → NumPy dtype of a stored tensor.
TENSOR_TYPES = {FLOAT32: "f4", INT32: "i4", UINT8: "u1", INT8: "i1"}

#: BuiltinOperator → name: pure functions of tensors, those that edgeveil writes.
OPERATORS = {
    0: "ADD",
    1: "AVERAGE_POOL_2D",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    18: "MUL",
    19: "RELU",
    21: "RELU6",
    22: "RESHAPE",
    28: "TANH",
    34: "PAD",
    39: "TRANSPOSE",
    40: "MEAN",
    45: "STRIDED_SLICE",
    55: "MAXIMUM",
    57: "MINIMUM",
    60: "PADV2",
    98: "LEAKY_RELU",
    114: "QUANTIZE",
    117: "HARD_SWISH",
}


def _scalars(*kinds: str) -> Schema:
    return slots(*(Slot(f"option_{number}", kind) for number, kind in enumerate(kinds)))


_NONE: Schema = {}
#: BuiltinOptions → its fields, in the schema's order.
_OPTIONS: dict[int, Schema] = {
    1: _scalars("i1", "i4", "i4", "i1", "i4", "i4", "i1"),  # Conv2D
    2: _scalars("i1", "i4", "i4", "i4", "i1", "i4", "i4"),  # DepthwiseConv2D
    5: _scalars("i1", "i4", "i4", "i4", "i4", "i1"),  # Pool2D
    8: _scalars("i1", "i1", "?", "?", "i1"),  # FullyConnected
    10: _scalars("i4", "i1"),  # Concatenation
    11: _scalars("i1", "?"),  # Add
    17: slots(Slot("new_shape", "[i4]")),  # Reshape
    21: _scalars("i1"),  # Mul
    22: _NONE,  # Pad
    26: _NONE,  # Transpose
    27: _scalars("?"),  # Reducer
    32: _scalars("i4", "i4", "i4", "i4", "i4", "?"),  # StridedSlice
    38: _NONE,  # Dequantize
    39: _NONE,  # MaximumMinimum
    43: _NONE,  # PadV2
    75: _scalars("f4"),  # LeakyRelu
    89: _NONE,  # Quantize
    91: _NONE,  # HardSwish
}

_OPERATOR_CODE = slots(
    Slot("deprecated_builtin_code", "i1"), None, Slot("version", "i4"), Slot("builtin_code", "i4")
)
_QUANTIZATION = slots(
    None,
    None,
    Slot("scale", "[f4]"),
    Slot("zero_point", "[i8]"),
    Slot("details_type", "u1"),
    None,
    Slot("quantized_dimension", "i4"),
)
_TENSOR = slots(
    Slot("shape", "[i4]"),
    Slot("type", "i1"),
    Slot("buffer", "u4"),
    Slot("name", "text"),
    Slot("quantization", "table", schema=_QUANTIZATION),
    None,
    None,
    Slot("shape_signature", "[i4]"),
)
_OPERATOR = slots(
    Slot("opcode_index", "u4"),
    Slot("inputs", "[i4]"),
    Slot("outputs", "[i4]"),
    Slot("builtin_options_type", "u1"),
    Slot("builtin_options", "union", union=_OPTIONS),
)
_SUBGRAPH = slots(
    Slot("tensors", "[table]", schema=_TENSOR),
    Slot("inputs", "[i4]"),
    Slot("outputs", "[i4]"),
    Slot("operators", "[table]", schema=_OPERATOR),
    Slot("name", "text"),
)
_BUFFER = slots(Slot("data", "[u1]"))

MODEL = slots(
    Slot("version", "u4"),
    Slot("operator_codes", "[table]", schema=_OPERATOR_CODE),
    Slot("subgraphs", "[table]", schema=_SUBGRAPH),
    Slot("description", "text"),
    Slot("buffers", "[table]", schema=_BUFFER),
)
