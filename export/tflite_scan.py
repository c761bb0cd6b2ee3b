"""Static scan of a ``.tflite`` file: everything LiteRT would act on, before it sees the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.bundle_errors import (
    ArtifactMismatchError,
    MalformedArtifactError,
    NonFiniteWeightsError,
    UnsafeOperatorError,
)
from export.flatbuffer import FlatbufferError, Message, parse
from export.tflite_schema import (
    FLOAT32,
    IDENTIFIER,
    INT8,
    MODEL,
    OPERATORS,
    TENSOR_TYPES,
    UINT8,
)
from records.manifest import Artifact, TensorSpec, WireTensor

VERSION = 3
MAX_OPERATORS = 20_000
MAX_RANK = 6
MAX_VALUES = 1 << 28

_ELEMENT_TYPES = {"float32": FLOAT32, "uint8": UINT8}


@dataclass(frozen=True)
class _Graph:
    """The checked tables of a file."""

    tensors: list[Message]
    operators: list[Message]
    kinds: list[str]
    constants: dict[int, npt.NDArray[Any]]
    producers: dict[int, int]


def scan_tflite(data: bytes, artifact: Artifact, wire: WireTensor, where: str) -> None:
    """Verify a ``.tflite`` file without running it.

    Args:
        data: the file's bytes.
        artifact: what the manifest says of it.
        wire: the tensor that INT8 edges must end with.
        where: the file's path, for errors.

    Raises:
        MalformedArtifactError: no flatbuffer of the schema within the limits, or an index, shape or
            buffer that contradicts another.
        UnsafeOperatorError: an operator that is not on the list.
        NonFiniteWeightsError: a stored number or scale is NaN or infinite.
        ArtifactMismatchError: ends, precision, or the boundary's grid are not the manifest's.
    """
    try:
        model = parse(data, MODEL, identifier=IDENTIFIER)
    except FlatbufferError as error:
        raise MalformedArtifactError(f"{where} is not a .tflite file: {error}; export again") from (
            error
        )
    subgraphs = model.get("subgraphs", [])
    if model.get("version") != VERSION or len(subgraphs) != 1:
        raise MalformedArtifactError(
            f"{where} has version {model.get('version')} and {len(subgraphs)} graphs, not "
            f"{VERSION} and one; export again"
        )
    graph = _scan_graph(model, subgraphs[0], where)
    source = _scan_end(subgraphs[0].get("inputs"), graph, artifact.input, where, "input")
    last = _scan_end(subgraphs[0].get("outputs"), graph, artifact.output, where, "output")
    if source in graph.producers or source in graph.constants or last not in graph.producers:
        raise MalformedArtifactError(f"{where} computes its input or not its output; export again")
    if artifact.precision == "int8":
        _check_wire(graph, last, artifact, wire, where)
    elif any(tensor.get("quantization") for tensor in graph.tensors):
        raise ArtifactMismatchError(f"{where} is quantized and its manifest says fp32")


def _scan_graph(model: Message, subgraph: Message, where: str) -> _Graph:
    kinds = [_operator_kind(code, where) for code in model.get("operator_codes", [])]
    tensors, operators = subgraph.get("tensors", []), subgraph.get("operators", [])
    if len(operators) > MAX_OPERATORS or len(tensors) > 8 * MAX_OPERATORS:
        raise MalformedArtifactError(f"{where} has {len(operators)} operators; export again")
    buffers = [buffer.get("data") for buffer in model.get("buffers", [])]
    if not buffers or buffers[0] is not None:
        raise MalformedArtifactError(f"{where} has no empty first buffer; export again")
    constants = {}
    for index, tensor in enumerate(tensors):
        stored = _scan_tensor(tensor, buffers, f"{where}: tensor {tensor.get('name', '')!r}")
        if stored is not None:
            constants[index] = stored
    graph = _Graph(tensors, operators, kinds, constants, {})
    inputs = subgraph.get("inputs", np.empty(0, np.int32))
    _connect(graph, {*constants, *inputs.tolist()}, where)
    return graph


def _operator_kind(code: Message, where: str) -> str:
    number = max(code.get("builtin_code", 0), code.get("deprecated_builtin_code", 0))
    if number not in OPERATORS:
        raise UnsafeOperatorError(f"{where}: operator {number} is not allowed in a bundle")
    return OPERATORS[number]


def _scan_tensor(tensor: Message, buffers: list[Any], label: str) -> npt.NDArray[Any] | None:
    """Verify a tensor; return the values of a stored one."""
    kind = tensor.get("type", FLOAT32)
    shape = tensor.get("shape", np.empty(0, np.int32)).tolist()
    signature = tensor.get("shape_signature", np.empty(0, np.int32)).tolist()
    if kind not in TENSOR_TYPES or tensor.get("buffer", 0) >= len(buffers):
        raise MalformedArtifactError(f"{label} has type {kind} or no buffer; export again")
    if len(shape) > MAX_RANK or any(s < 1 for s in shape) or math.prod(shape) > MAX_VALUES:
        raise MalformedArtifactError(f"{label} has the shape {shape}; export again")
    if signature not in ([], shape, [-1, *shape[1:]]):
        raise MalformedArtifactError(f"{label} may become {signature}; export again")
    _scan_grid(tensor, shape, label)
    data = buffers[tensor.get("buffer", 0)]
    if data is None:
        return None
    dtype = np.dtype(f"<{TENSOR_TYPES[kind]}")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise MalformedArtifactError(f"{label} has {len(data)} bytes for {shape}; export again")
    values: npt.NDArray[Any] = np.frombuffer(data.tobytes(), dtype)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise NonFiniteWeightsError(f"{label} is NaN or infinite; export again")
    return values


def _scan_grid(tensor: Message, shape: list[int], label: str) -> None:
    grid = tensor.get("quantization", {})
    scales, points = grid.get("scale", np.empty(0)), grid.get("zero_point", np.empty(0))
    axis = grid.get("quantized_dimension", 0)
    allowed = {0, 1} | ({shape[axis]} if 0 <= axis < len(shape) else set())
    if len(scales) not in allowed or len(scales) != len(points) or grid.get("details_type"):
        raise MalformedArtifactError(f"{label} has {len(scales)} scales; export again")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise NonFiniteWeightsError(f"{label} has a scale that is no positive number")
    if len(points) and not (points.min() >= -128 and points.max() <= 255):
        raise MalformedArtifactError(f"{label} has a zero point out of range; export again")


def _connect(graph: _Graph, known: set[int], where: str) -> None:
    """Refuse tensors that are used before they are made, or made twice."""
    for number, operator in enumerate(graph.operators):
        label = f"{where}: operator {number}"
        if operator.get("opcode_index", 0) >= len(graph.kinds):
            raise MalformedArtifactError(f"{label} has no kind; export again")
        empty = np.empty(0, np.int32)
        for index in operator.get("inputs", empty).tolist():
            if index not in known:
                raise MalformedArtifactError(f"{label} uses tensor {index}, which nothing makes")
        outputs = operator.get("outputs", empty).tolist()
        for index in outputs:
            if index in known or not 0 <= index < len(graph.tensors):
                raise MalformedArtifactError(f"{label} makes tensor {index}; export again")
            known.add(index)
            graph.producers[index] = number
        if len(outputs) != 1:
            raise MalformedArtifactError(f"{label} makes {len(outputs)} tensors; export again")


def _scan_end(indices: Any, graph: _Graph, spec: TensorSpec, where: str, what: str) -> int:
    """Verify an end of the graph and return its tensor."""
    found: list[int] = [] if indices is None else indices.tolist()
    if len(found) != 1 or not 0 <= found[0] < len(graph.tensors):
        raise ArtifactMismatchError(f"{where} has the {what}s {found}, not one; export again")
    tensor = graph.tensors[found[0]]
    described = (
        tensor.get("name", ""),
        tensor.get("type", FLOAT32),
        tensor.get("shape_signature", np.empty(0, np.int32)).tolist(),
    )
    expected = (spec.name, _ELEMENT_TYPES[spec.dtype], [-1, *spec.shape])
    if described != expected:
        raise ArtifactMismatchError(
            f"{where} has the {what} {described} (name, type, shape) and its manifest says "
            f"{expected}; export again"
        )
    return found[0]


def _check_wire(graph: _Graph, last: int, artifact: Artifact, wire: WireTensor, where: str) -> None:
    """The integers that the file ends with must lie on the manifest's grid."""
    operator = graph.operators[graph.producers[last]]
    kind = graph.kinds[operator.get("opcode_index", 0)]
    expected = "QUANTIZE" if artifact.boundary == "wire" else "DEQUANTIZE"
    if kind != expected:
        raise ArtifactMismatchError(f"{where} ends with {kind}, not with {expected}; export again")
    inputs = operator.get("inputs", np.empty(0, np.int32)).tolist()
    ends = [(inputs[0] if inputs else last, 128)]
    if artifact.boundary == "wire":
        ends.append((last, 0))
    for index, offset in ends:
        tensor = graph.tensors[index]
        grid = tensor.get("quantization", {})
        scales, points = grid.get("scale", np.empty(0)), grid.get("zero_point", np.empty(0))
        found = (scales.tolist(), points.tolist(), tensor.get("type", FLOAT32))
        kind_of_grid = INT8 if offset else UINT8
        wanted = ([float(np.float32(wire.scale))], [wire.zero_point - offset], kind_of_grid)
        if found != wanted:
            raise ArtifactMismatchError(
                f"{where} ends on the grid {found} and its manifest says {wanted}; export again"
            )
    if wire.bits < 8:
        _check_bits(graph, ends[0][0], wire, where)


def _is_below(bound: npt.NDArray[Any], largest: int) -> bool:
    """Whether an int8 bound keeps the uint8 that it stands for at or below ``largest``."""
    return bound.dtype == np.int8 and len(bound) > 0 and int(bound.max()) + 128 <= largest


def _check_bits(graph: _Graph, sent: int, wire: WireTensor, where: str) -> None:
    """Below 8 bits the sent integers must come from a MINIMUM, moved at most."""
    index = sent
    while index in graph.producers:
        operator = graph.operators[graph.producers[index]]
        kind = graph.kinds[operator.get("opcode_index", 0)]
        inputs = operator.get("inputs", np.empty(0, np.int32)).tolist()
        if kind == "MINIMUM" and len(inputs) == 2:
            bound = graph.constants.get(inputs[1])
            if bound is not None and _is_below(bound, wire.largest):
                return
            break
        if kind not in {"TRANSPOSE", "RESHAPE", "MAXIMUM"} or not inputs:
            break
        index = inputs[0]
    raise ArtifactMismatchError(
        f"{where} does not clip what it sends to the {wire.bits} bits of its manifest; export again"
    )
