"""The parts of ExecuTorch's flatbuffer schema that a bundle's ``.pte`` may use.

Source: ``schema/program.fbs`` of ExecuTorch 1.5. Jumps, strings, devices other than the CPU and
tensors of other files are left out, and refused by that.
"""

from __future__ import annotations

from export.flatbuffer import Schema, Slot, slots

IDENTIFIER = b"ET12"

#: ScalarType of what an artifact may take and give.
UINT8, FLOAT32 = 0, 6
SCALAR_TYPES = frozenset({UINT8, 1, 2, 3, 4, FLOAT32, 11})

INT, TENSOR = 2, 5
KERNEL, DELEGATE, MOVE, FREE = 1, 2, 3, 5

_ALLOCATION = slots(
    Slot("memory_id", "u4"), Slot("memory_offset_low", "u4"), Slot("memory_offset_high", "u4")
)
_EXTRA = slots(
    Slot("mutable_data_segments_idx", "u8"),
    Slot("fully_qualified_name", "text"),
    Slot("location", "i1"),
)
_TENSOR = slots(
    Slot("scalar_type", "i1"),
    Slot("storage_offset", "i4"),
    Slot("sizes", "[i4]"),
    Slot("dim_order", "[u1]"),
    Slot("requires_grad", "?"),
    Slot("data_buffer_idx", "u4"),
    Slot("allocation_info", "table", schema=_ALLOCATION),
    Slot("layout", "i1"),
    Slot("shape_dynamism", "i1"),
    Slot("extra_tensor_info", "table", schema=_EXTRA),
)


def _one(name: str, kind: str) -> Schema:
    return slots(Slot(name, kind))


#: KernelTypes, without strings and lists of optional tensors.
_VALUES: dict[int, Schema] = {
    1: {},
    2: _one("int_val", "i8"),
    3: _one("bool_val", "?"),
    4: _one("double_val", "f8"),
    5: _TENSOR,
    7: _one("items", "[i8]"),
    8: _one("items", "[f8]"),
    9: _one("items", "[?]"),
    10: _one("items", "[i4]"),
}
_EVALUE = slots(Slot("val_type", "u1"), Slot("val", "union", union=_VALUES))
_OPERATOR = slots(Slot("name", "text"), Slot("overload", "text"))
_INSTRUCTIONS: dict[int, Schema] = {
    KERNEL: slots(Slot("op_index", "i4"), Slot("args", "[i4]")),
    DELEGATE: slots(Slot("delegate_index", "i4"), Slot("args", "[i4]")),
    MOVE: slots(Slot("move_from", "i4"), Slot("move_to", "i4")),
    FREE: slots(Slot("value_index", "i4")),
}
_INSTRUCTION = slots(
    Slot("instr_args_type", "u1"), Slot("instr_args", "union", union=_INSTRUCTIONS)
)
_PROCESSED = slots(Slot("location", "i1"), Slot("index", "u4"))
_COMPILE_SPEC = slots(Slot("key", "text"), Slot("value", "[u1]"))
_BACKEND = slots(
    Slot("id", "text"),
    Slot("processed", "table", schema=_PROCESSED),
    Slot("compile_specs", "[table]", schema=_COMPILE_SPEC),
)
_CHAIN = slots(
    Slot("inputs", "[i4]"),
    Slot("outputs", "[i4]"),
    Slot("instructions", "[table]", schema=_INSTRUCTION),
)
_CONTAINER = slots(Slot("encoded_inp_str", "text"), Slot("encoded_out_str", "text"))
_PLAN = slots(
    Slot("name", "text"),
    Slot("container_meta_type", "table", schema=_CONTAINER),
    Slot("values", "[table]", schema=_EVALUE),
    Slot("inputs", "[i4]"),
    Slot("outputs", "[i4]"),
    Slot("chains", "[table]", schema=_CHAIN),
    Slot("operators", "[table]", schema=_OPERATOR),
    Slot("delegates", "[table]", schema=_BACKEND),
    Slot("non_const_buffer_sizes", "[i8]"),
)
_BUFFER = slots(Slot("storage", "[u1]"))
_INLINE = slots(Slot("data", "[u1]"))
_SEGMENT = slots(Slot("offset", "u8"), Slot("size", "u8"))
_SUBSEGMENTS = slots(Slot("segment_index", "u4"), Slot("offsets", "[u8]"))
_NAMED = slots(Slot("key", "text"), Slot("segment_index", "u4"))

PROGRAM = slots(
    Slot("version", "u4"),
    Slot("execution_plan", "[table]", schema=_PLAN),
    Slot("constant_buffer", "[table]", schema=_BUFFER),
    Slot("backend_delegate_data", "[table]", schema=_INLINE),
    Slot("segments", "[table]", schema=_SEGMENT),
    Slot("constant_segment", "table", schema=_SUBSEGMENTS),
    Slot("mutable_data_segments", "[table]", schema=_SUBSEGMENTS),
    Slot("named_data", "[table]", schema=_NAMED),
)
