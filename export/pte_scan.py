"""Static scan of a ``.pte`` file: what ExecuTorch would act on, before it sees the file.

XNNPACK's own graph inside is held to its header and its place only: the boundary's grid is not read
here, ``check`` measures it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from export.bundle_errors import (
    ArtifactMismatchError,
    MalformedArtifactError,
    NonFiniteWeightsError,
    UnsafeOperatorError,
)
from export.flatbuffer import FlatbufferError, Message, parse
from export.pte_schema import (
    DELEGATE,
    FLOAT32,
    FREE,
    IDENTIFIER,
    KERNEL,
    PROGRAM,
    SCALAR_TYPES,
    TENSOR,
    UINT8,
)
from records.manifest import Artifact, TensorSpec

BACKEND = "XnnpackBackend"
METHOD = "forward"
#: Namespaces whose operators are functions of tensors alone.
NAMESPACES = ("aten::", "dim_order_ops::", "quantized_decomposed::")
MAX_INSTRUCTIONS = 20_000
#: Memory that a program may plan for its tensors.
MAX_PLANNED_BYTES = 1 << 30

#: The header behind the root offset and identifier: magic, its length, bytes of the flatbuffer,
#: where the segments begin, bytes of all segments (ExecuTorch, schema/extended_header.cpp).
_HEADER = struct.Struct("<4sIQQQ")
_HEADER_AT = 8
_MAGIC, _XNNPACK_MAGIC = b"eh00", b"XH00"
#: XNNPACK's header: zeros, magic, its length, place and bytes of its flatbuffer and constants.
_XNNPACK_HEADER = struct.Struct("<4s4sHIIIQ")
_ELEMENT_TYPES = {"float32": FLOAT32, "uint8": UINT8}
_IN_SEGMENT = 1


def scan_pte(data: bytes, artifact: Artifact, where: str) -> None:
    """Verify a ``.pte`` file without running it.

    Args:
        data: the file's bytes.
        artifact: what the manifest says of it.
        where: the file's path, for errors.

    Raises:
        MalformedArtifactError: no flatbuffer of the schema within the limits, or an index or
            segment that leads outside.
        UnsafeOperatorError: another backend than XNNPACK, a jump, or an operator of an unknown
            namespace.
        NonFiniteWeightsError: a stored scale is NaN, infinite or not positive.
        ArtifactMismatchError: the ends are not the manifest's.
    """
    try:
        program = parse(data, PROGRAM, identifier=IDENTIFIER)
    except FlatbufferError as error:
        raise MalformedArtifactError(f"{where} is not a .pte file: {error}; export again") from (
            error
        )
    plans = program.get("execution_plan", [])
    if len(plans) != 1 or plans[0].get("name") != METHOD:
        raise MalformedArtifactError(f"{where} has not the one method {METHOD!r}; export again")
    segments = _segments(program, data, where)
    _check_named(program, segments, where)
    _check_plan(plans[0], segments, where)
    _check_end(plans[0], "inputs", artifact.input, where)
    _check_end(plans[0], "outputs", artifact.output, where)


def _malformed(where: str, what: str) -> MalformedArtifactError:
    return MalformedArtifactError(f"{where}: {what}; export again")


def _segments(program: Message, data: bytes, where: str) -> list[memoryview]:
    """Return the segments' bytes; each lies inside the file, behind the flatbuffer."""
    listed = program.get("segments", [])
    if not listed:
        return []
    if len(data) < _HEADER_AT + _HEADER.size:
        raise _malformed(where, "it ends inside its header")
    magic, length, size, base, _ = _HEADER.unpack_from(data, _HEADER_AT)
    if magic != _MAGIC or length < _HEADER.size or not size <= base <= len(data):
        raise _malformed(where, "its header leads outside the file")
    view, found = memoryview(data)[base:], []
    for segment in listed:
        offset, count = segment.get("offset", 0), segment.get("size", 0)
        if offset + count > len(view):
            raise _malformed(where, "a segment leads outside the file")
        found.append(view[offset : offset + count])
    return found


def _check_named(program: Message, segments: list[memoryview], where: str) -> None:
    if program.get("mutable_data_segments"):
        raise _malformed(where, "it has data that a run changes")
    constant = program.get("constant_segment", {})
    if constant and constant.get("segment_index", 0) >= len(segments):
        raise _malformed(where, "its constants have no segment")
    for named in program.get("named_data", []):
        index, key = named.get("segment_index", 0), named.get("key", "")
        if index >= len(segments):
            raise _malformed(where, f"the data {key[:20]!r} have no segment")
        if key.startswith("scale_"):
            _check_scales(segments[index], f"{where}: {key[:20]}…")


def _check_scales(data: memoryview, label: str) -> None:
    if len(data) % 4:
        raise _malformed(label, "it ends inside a number")
    scales = np.frombuffer(data, "<f4")
    # Zeros fill the segment up to XNNPACK's alignment.
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise NonFiniteWeightsError(f"{label} holds a scale that is no positive number")


def _check_plan(plan: Message, segments: list[memoryview], where: str) -> None:
    planned = plan.get("non_const_buffer_sizes", np.empty(0, np.int64))
    if (planned < 0).any() or int(planned.sum()) > MAX_PLANNED_BYTES:
        raise _malformed(where, f"it plans {planned.tolist()} bytes of memory")
    for operator in plan.get("operators", []):
        name = operator.get("name", "")
        if not name.startswith(NAMESPACES):
            raise UnsafeOperatorError(f"{where}: operator {name!r} is not allowed in a bundle")
    for delegate in plan.get("delegates", []):
        _check_delegate(delegate, segments, where)
    values = plan.get("values", [])
    for value in values:
        if value.get("val_type") == TENSOR:
            _check_tensor(value["val"], planned, where)
    for chain in plan.get("chains", []):
        _check_chain(chain, plan, len(values), where)


def _check_delegate(delegate: Message, segments: list[memoryview], where: str) -> None:
    processed = delegate.get("processed", {})
    if delegate.get("id") != BACKEND:
        raise UnsafeOperatorError(f"{where}: backend {delegate.get('id')!r} is not {BACKEND}")
    index = processed.get("index", 0)
    if processed.get("location", 0) != _IN_SEGMENT or index >= len(segments):
        raise _malformed(where, "a delegate's data are in no segment")
    data = segments[index]
    if len(data) < _XNNPACK_HEADER.size:
        raise _malformed(where, "a delegate's data end inside their header")
    _, magic, length, start, size, constants, more = _XNNPACK_HEADER.unpack_from(data)
    inside = start + size <= len(data) and (not more or constants + more <= len(data))
    if magic != _XNNPACK_MAGIC or length < _XNNPACK_HEADER.size or not inside:
        raise _malformed(where, "a delegate's data are no XNNPACK graph")


def _check_tensor(tensor: Message, planned: Any, where: str) -> None:
    sizes = tensor.get("sizes", np.empty(0, np.int32)).tolist()
    if tensor.get("scalar_type", 0) not in SCALAR_TYPES or any(size < 0 for size in sizes):
        raise _malformed(where, f"a tensor has the sizes {sizes} or an unknown type")
    if tensor.get("extra_tensor_info", {}).get("location", 0):
        raise _malformed(where, "a tensor's data are outside the file")
    place = tensor.get("allocation_info")
    if place is not None:
        memory = place.get("memory_id", 0)
        offset = place.get("memory_offset_low", 0) + (place.get("memory_offset_high", 0) << 32)
        if not 0 < memory < len(planned) or offset > int(planned[memory]):
            raise _malformed(where, "a tensor lies outside the planned memory")


def _check_chain(chain: Message, plan: Message, values: int, where: str) -> None:
    instructions = chain.get("instructions", [])
    if len(instructions) > MAX_INSTRUCTIONS:
        raise _malformed(where, f"it has {len(instructions)} instructions")
    limits = {
        KERNEL: ("op_index", len(plan.get("operators", []))),
        DELEGATE: ("delegate_index", len(plan.get("delegates", []))),
        FREE: ("value_index", values),
    }
    for instruction in instructions:
        kind, call = instruction.get("instr_args_type", 0), instruction.get("instr_args", {})
        if kind not in limits:
            raise UnsafeOperatorError(f"{where}: an instruction of kind {kind} is not allowed")
        name, limit = limits[kind]
        args = call.get("args", np.empty(0, np.int32))
        if not 0 <= call.get(name, 0) < limit or (args < 0).any() or (args >= values).any():
            raise _malformed(where, "an instruction names what is not there")


def _check_end(plan: Message, which: str, spec: TensorSpec, where: str) -> None:
    values, found = plan.get("values", []), plan.get(which, np.empty(0, np.int32)).tolist()
    described = [_described(values[i]) if 0 <= i < len(values) else None for i in found]
    expected = (_ELEMENT_TYPES[spec.dtype], [1, *spec.shape])
    if described != [expected]:
        raise ArtifactMismatchError(
            f"{where} has the {which} {described} (type, shape) and its manifest says "
            f"{[expected]}; export again"
        )


def _described(value: Message) -> tuple[int, list[int]] | None:
    if value.get("val_type") != TENSOR:
        return None
    tensor = value["val"]
    return tensor.get("scalar_type", 0), tensor.get("sizes", np.empty(0, np.int32)).tolist()
