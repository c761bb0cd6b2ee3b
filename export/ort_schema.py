"""The parts of ONNX Runtime's own file format (``.ort``) that a bundle may use.

Source: ``onnxruntime/core/flatbuffers/schema/ort.fbs`` of ONNX Runtime. Graphs inside attributes,
sparse tensors, strings as data and optimizations at load are left out, and refused by that.
"""

from __future__ import annotations

from export.flatbuffer import Slot, slots

IDENTIFIER = b"ORTM"

FLOAT, UINT8 = 1, 2
#: TensorDataType → NumPy dtype of what a bundle stores.
DATA_TYPES = {FLOAT: "f4", UINT8: "u1", 3: "i1", 6: "i4", 7: "i8", 9: "u1"}

_DIMENSION_VALUE = slots(Slot("dim_type", "i1"), Slot("dim_value", "i8"), Slot("dim_param", "text"))
_DIMENSION = slots(Slot("value", "table", schema=_DIMENSION_VALUE), Slot("denotation", "text"))
_SHAPE = slots(Slot("dim", "[table]", schema=_DIMENSION))
_TENSOR_TYPE = slots(Slot("elem_type", "i4"), Slot("shape", "table", schema=_SHAPE))
_TYPE_INFO = slots(
    Slot("denotation", "text"),
    Slot("value_type", "u1"),
    Slot("value", "union", union={1: _TENSOR_TYPE}),
)
_VALUE_INFO = slots(
    Slot("name", "text"), Slot("doc_string", "text"), Slot("type", "table", schema=_TYPE_INFO)
)
_TENSOR = slots(
    Slot("name", "text"),
    Slot("doc_string", "text"),
    Slot("dims", "[i8]"),
    Slot("data_type", "i4"),
    Slot("raw_data", "[u1]"),
)
_ATTRIBUTE = slots(
    Slot("name", "text"),
    Slot("doc_string", "text"),
    Slot("type", "i4"),
    Slot("f", "f4"),
    Slot("i", "i8"),
    Slot("s", "text"),
    Slot("t", "table", schema=_TENSOR),
    None,
    Slot("floats", "[f4]"),
    Slot("ints", "[i8]"),
    Slot("strings", "[text]"),
    Slot("tensors", "[table]", schema=_TENSOR),
)
_NODE = slots(
    Slot("name", "text"),
    Slot("doc_string", "text"),
    Slot("domain", "text"),
    Slot("since_version", "i4"),
    Slot("index", "u4"),
    Slot("op_type", "text"),
    Slot("type", "i4"),
    Slot("execution_provider_type", "text"),
    Slot("inputs", "[text]"),
    Slot("outputs", "[text]"),
    Slot("attributes", "[table]", schema=_ATTRIBUTE),
    Slot("input_arg_counts", "[i4]"),
    Slot("implicit_inputs", "[text]"),
)
#: An EdgeEnd is a structure of three numbers of four bytes.
_NODE_EDGE = slots(
    Slot("node_index", "u4"), Slot("input_edges", "[V12]"), Slot("output_edges", "[V12]")
)
#: Present and empty where nothing is left to do at load.
_OPTIMIZATIONS = slots(Slot("records", "[table]", schema={}))
_GRAPH = slots(
    Slot("initializers", "[table]", schema=_TENSOR),
    Slot("node_args", "[table]", schema=_VALUE_INFO),
    Slot("nodes", "[table]", schema=_NODE),
    Slot("max_node_index", "u4"),
    Slot("node_edges", "[table]", schema=_NODE_EDGE),
    Slot("inputs", "[text]"),
    Slot("outputs", "[text]"),
    Slot("sparse_initializers", "[table]", schema={}),
    Slot("runtime_optimizations", "table", schema=_OPTIMIZATIONS),
)
_OPSET = slots(Slot("domain", "text"), Slot("version", "i8"))
_ENTRY = slots(Slot("key", "text"), Slot("value", "text"))
_MODEL = slots(
    Slot("ir_version", "i8"),
    Slot("opset_import", "[table]", schema=_OPSET),
    Slot("producer_name", "text"),
    Slot("producer_version", "text"),
    Slot("domain", "text"),
    Slot("model_version", "i8"),
    Slot("doc_string", "text"),
    Slot("graph", "table", schema=_GRAPH),
    Slot("graph_doc_string", "text"),
    Slot("metadata_props", "[table]", schema=_ENTRY),
)
_ARGUMENT = slots(Slot("arg_type", "i1"), Slot("index", "u4"))
_ARGUMENTS = slots(Slot("kernel_type_str", "text"), Slot("args", "[table]", schema=_ARGUMENT))
_KERNEL = slots(Slot("op_id", "text"), Slot("kernel_type_str_args", "[table]", schema=_ARGUMENTS))
_RESOLVER = slots(Slot("op_kernel_type_str_args", "[table]", schema=_KERNEL))

SESSION = slots(
    Slot("ort_version", "text"),
    Slot("model", "table", schema=_MODEL),
    None,
    Slot("kernel_type_str_resolver", "table", schema=_RESOLVER),
)
