"""The fields of ONNX that a bundle's files may hold; numbers from ``onnx.proto`` (IR version ≤ 13).

Left out on purpose, hence refused by the reader: segmented tensors, strings in tensors, references
to attributes, sequence, map and optional types, and the placement of nodes on devices. Functions,
training graphs, subgraphs and sparse tensors are known as bytes, to be refused by name.
"""

from __future__ import annotations

from export.protobuf import Field, Schema

_ENTRY: Schema = {1: Field("key", "text"), 2: Field("value", "text")}

_DIMENSION: Schema = {
    1: Field("dim_value", "int"),
    2: Field("dim_param", "text"),
    3: Field("denotation", "text"),
}
_SHAPE: Schema = {1: Field("dim", "message", repeated=True, schema=_DIMENSION)}
_TENSOR_TYPE: Schema = {1: Field("elem_type", "int"), 2: Field("shape", "message", schema=_SHAPE)}
_TYPE: Schema = {
    1: Field("tensor_type", "message", schema=_TENSOR_TYPE),
    6: Field("denotation", "text"),
}
_VALUE_INFO: Schema = {
    1: Field("name", "text"),
    2: Field("type", "message", schema=_TYPE),
    3: Field("doc_string", "text"),
    4: Field("metadata_props", "message", repeated=True, schema=_ENTRY),
}
TENSOR: Schema = {
    1: Field("dims", "int", repeated=True),
    2: Field("data_type", "int"),
    4: Field("float_data", "float", repeated=True),
    5: Field("int32_data", "int", repeated=True),
    7: Field("int64_data", "int", repeated=True),
    8: Field("name", "text"),
    9: Field("raw_data", "bytes"),
    10: Field("double_data", "double", repeated=True),
    11: Field("uint64_data", "int", repeated=True),
    12: Field("doc_string", "text"),
    13: Field("external_data", "message", repeated=True, schema=_ENTRY),
    14: Field("data_location", "int"),
    16: Field("metadata_props", "message", repeated=True, schema=_ENTRY),
}
_ATTRIBUTE: Schema = {
    1: Field("name", "text"),
    2: Field("f", "float"),
    3: Field("i", "int"),
    4: Field("s", "bytes"),
    5: Field("t", "message", schema=TENSOR),
    6: Field("g", "bytes"),
    7: Field("floats", "float", repeated=True),
    8: Field("ints", "int", repeated=True),
    9: Field("strings", "bytes", repeated=True),
    10: Field("tensors", "message", repeated=True, schema=TENSOR),
    11: Field("graphs", "bytes", repeated=True),
    13: Field("doc_string", "text"),
    20: Field("type", "int"),
}
_NODE: Schema = {
    1: Field("input", "text", repeated=True),
    2: Field("output", "text", repeated=True),
    3: Field("name", "text"),
    4: Field("op_type", "text"),
    5: Field("attribute", "message", repeated=True, schema=_ATTRIBUTE),
    6: Field("doc_string", "text"),
    7: Field("domain", "text"),
    8: Field("overload", "text"),
    9: Field("metadata_props", "message", repeated=True, schema=_ENTRY),
}
_GRAPH: Schema = {
    1: Field("node", "message", repeated=True, schema=_NODE),
    2: Field("name", "text"),
    5: Field("initializer", "message", repeated=True, schema=TENSOR),
    10: Field("doc_string", "text"),
    11: Field("input", "message", repeated=True, schema=_VALUE_INFO),
    12: Field("output", "message", repeated=True, schema=_VALUE_INFO),
    13: Field("value_info", "message", repeated=True, schema=_VALUE_INFO),
    15: Field("sparse_initializer", "bytes", repeated=True),
    16: Field("metadata_props", "message", repeated=True, schema=_ENTRY),
}
_OPSET: Schema = {1: Field("domain", "text"), 2: Field("version", "int")}
MODEL: Schema = {
    1: Field("ir_version", "int"),
    2: Field("producer_name", "text"),
    3: Field("producer_version", "text"),
    4: Field("domain", "text"),
    5: Field("model_version", "int"),
    6: Field("doc_string", "text"),
    7: Field("graph", "message", schema=_GRAPH),
    8: Field("opset_import", "message", repeated=True, schema=_OPSET),
    14: Field("metadata_props", "message", repeated=True, schema=_ENTRY),
    20: Field("training_info", "bytes", repeated=True),
    25: Field("functions", "bytes", repeated=True),
}
