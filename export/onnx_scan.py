"""Static scan of an ONNX file: everything a runtime would act on, before it sees the file."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
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
from export.onnx_schema import MODEL
from export.onnx_tensor import tensor_values
from export.protobuf import Message, WireFormatError, parse
from records.manifest import Artifact, TensorSpec, WireTensor

MAX_NODES = 20_000

#: The default domain has two spellings.
_ONNX_DOMAINS = ("", "ai.onnx")
_MICROSOFT = "com.microsoft"

#: Quantized kernels of ONNX Runtime; nothing else of its own domain belongs in a bundle.
_MICROSOFT_OPERATORS = frozenset(
    {
        "DequantizeLinear",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QuantizeLinear",
    }
)
#: Control flow carries graphs of its own; sequences, optionals and strings are no tensors.
_REFUSED_OPERATORS = frozenset({"If", "Loop", "Scan", "SequenceMap", "StringNormalizer"})

#: TensorProto.DataType of what an artifact may take and give.
_ELEMENT_TYPES = {"float32": 1, "uint8": 2}


@dataclass(frozen=True)
class _Graph:
    """The parts of a scanned graph that the manifest speaks of."""

    inputs: list[Message]
    outputs: list[Message]
    constants: dict[str, npt.NDArray[Any]]
    producers: dict[str, Message]


def scan_onnx(data: bytes, artifact: Artifact, wire: WireTensor, where: str) -> None:
    """Verify an ONNX file without running it.

    Args:
        data: the file's bytes.
        artifact: what the manifest says of it.
        wire: the tensor that INT8 edges must end with.
        where: the file's path, for errors.

    Raises:
        MalformedArtifactError: not parseable as ONNX within the limits, or inconsistent in itself.
        ExternalDataError: it refers to another file.
        UnsafeOperatorError: control flow, a function, or an operator of an unknown domain.
        NonFiniteWeightsError: a stored number is NaN or infinite.
        ArtifactMismatchError: opset, ends, or the boundary's scale or bits are not the manifest's.
    """
    try:
        model = parse(data, MODEL)
    except WireFormatError as error:
        raise MalformedArtifactError(f"{where} is not an ONNX file: {error}; export again") from (
            error
        )
    _check_model(model, artifact, where)
    graph = _scan_graph(model["graph"], where)
    _check_end(graph.inputs, artifact.input, where, "input")
    _check_end(graph.outputs, artifact.output, where, "output")
    if artifact.precision == "int8":
        _check_wire(graph, artifact, wire, where)
    else:
        _check_float(graph, where)


def _check_model(model: Message, artifact: Artifact, where: str) -> None:
    for name in ("functions", "training_info"):
        if model.get(name):
            raise UnsafeOperatorError(f"{where} has {name}, which no bundle needs; export again")
    if "graph" not in model:
        raise MalformedArtifactError(f"{where} has no graph; export again")
    opsets = [(o.get("domain", ""), o.get("version", 0)) for o in model.get("opset_import", [])]
    for domain, _ in opsets:
        if domain not in (*_ONNX_DOMAINS, _MICROSOFT):
            raise UnsafeOperatorError(
                f"{where} imports operators of the domain {domain!r}; only ai.onnx and "
                f"{_MICROSOFT} are allowed"
            )
    standard = [version for domain, version in opsets if domain in _ONNX_DOMAINS]
    if standard != [artifact.opset]:
        raise ArtifactMismatchError(
            f"{where} imports opset {standard} and its manifest says {artifact.opset}; export again"
        )


def _scan_graph(graph: Message, where: str) -> _Graph:
    if graph.get("sparse_initializer"):
        raise MalformedArtifactError(f"{where} has sparse tensors; export again")
    constants: dict[str, npt.NDArray[Any]] = {}
    inputs, outputs = graph.get("input", []), graph.get("output", [])
    known = {value.get("name", "") for value in inputs}
    for tensor in graph.get("initializer", []):
        name = tensor.get("name", "")
        _define(known, name, where)
        constants[name] = tensor_values(tensor, f"{where}: initializer {name!r}")
    nodes = graph.get("node", [])
    if len(nodes) > MAX_NODES:
        raise MalformedArtifactError(f"{where} has {len(nodes)} nodes, over {MAX_NODES}")
    producers: dict[str, Message] = {}
    for node in nodes:
        constant = _scan_node(node, where)
        _connect(node, known, where)
        producers.update(dict.fromkeys(filter(None, node.get("output", [])), node))
        if constant is not None:
            constants[node["output"][0]] = constant
    return _Graph(inputs, outputs, constants, producers)


def _define(known: set[str], name: str, where: str) -> None:
    if not name or name in known:
        raise MalformedArtifactError(f"{where} defines the value {name!r} twice; export again")
    known.add(name)


def _connect(node: Message, known: set[str], where: str) -> None:
    """Refuse values that are used before they are made, or made twice."""
    for name in filter(None, node.get("input", [])):
        if name not in known:
            raise MalformedArtifactError(
                f"{where}: node {node.get('name', '')!r} uses {name!r}, which nothing before it "
                "makes; export again"
            )
    for name in filter(None, node.get("output", [])):
        _define(known, name, where)


def _scan_node(node: Message, where: str) -> npt.NDArray[Any] | None:
    """Verify one node; return the value of a Constant node."""
    operator, domain = node.get("op_type", ""), node.get("domain", "")
    label = f"{where}: node {node.get('name', '')!r} ({operator})"
    _check_operator(operator, domain, node, label)
    if not any(node.get("output", [])):
        raise MalformedArtifactError(f"{label} makes nothing; export again")
    attributes = {a.get("name", ""): a for a in node.get("attribute", [])}
    if len(attributes) != len(node.get("attribute", [])):
        raise MalformedArtifactError(f"{label} has an attribute twice; export again")
    found = None
    for name, attribute in attributes.items():
        for tensor in _attribute_tensors(attribute, f"{label}, attribute {name!r}"):
            found = tensor
    return found if operator == "Constant" else None


def _check_operator(operator: str, domain: str, node: Message, label: str) -> None:
    if refused_operator(operator, domain):
        raise UnsafeOperatorError(
            f"{label} of domain {domain or 'ai.onnx'!r} is not allowed in a bundle"
        )
    if any(a.get("g") is not None or a.get("graphs") for a in node.get("attribute", [])):
        raise UnsafeOperatorError(f"{label} carries a graph, which is not allowed in a bundle")


def refused_operator(operator: str, domain: str) -> bool:
    """Whether an operator has no place in a bundle: control flow, no tensors, another domain."""
    if domain == _MICROSOFT:
        return operator not in _MICROSOFT_OPERATORS
    return (
        domain not in _ONNX_DOMAINS
        or operator in _REFUSED_OPERATORS
        or operator.startswith(("Sequence", "Optional"))
    )


def _attribute_tensors(attribute: Message, label: str) -> Iterator[npt.NDArray[Any]]:
    floats = [struct.unpack(f"<{len(raw) // 4}f", raw) for raw in attribute.get("floats", [])]
    numbers = [attribute.get("f", 0.0), *(number for group in floats for number in group)]
    if not all(math.isfinite(number) for number in numbers):
        raise NonFiniteWeightsError(f"{label} is NaN or infinite; export again")
    stored = [attribute["t"]] if "t" in attribute else []
    for tensor in [*stored, *attribute.get("tensors", [])]:
        yield tensor_values(tensor, label)


def _check_end(values: list[Message], spec: TensorSpec, where: str, what: str) -> None:
    found = [_described(value) for value in values]
    expected = (spec.name, _ELEMENT_TYPES[spec.dtype], spec.shape)
    if found != [expected]:
        raise ArtifactMismatchError(
            f"{where} has the {what}s {found} (name, type, shape after a dynamic batch axis) "
            f"and its manifest says {[expected]}; export again"
        )


def _described(value: Message) -> tuple[str, int, tuple[int, ...] | None]:
    """Return name, element type and shape; a shape without a dynamic first axis is None."""
    tensor = value.get("type", {}).get("tensor_type", {})
    dims = tensor.get("shape", {}).get("dim", [])
    sizes = tuple(d.get("dim_value", 0) for d in dims)
    dynamic = bool(dims) and "dim_value" not in dims[0]
    return value.get("name", ""), tensor.get("elem_type", 0), sizes[1:] if dynamic else None


def _check_float(graph: _Graph, where: str) -> None:
    for node in graph.producers.values():
        operator = node.get("op_type", "")
        if "Quantize" in operator or operator.startswith("QLinear"):
            raise ArtifactMismatchError(
                f"{where} has a node {operator} and its manifest says fp32; export again"
            )


def _check_wire(graph: _Graph, artifact: Artifact, wire: WireTensor, where: str) -> None:
    """The last quantizing node must carry the manifest's scale and zero point."""
    expected = "QuantizeLinear" if artifact.boundary == "wire" else "DequantizeLinear"
    node = graph.producers.get(artifact.output.name, {})
    if node.get("op_type") != expected:
        raise ArtifactMismatchError(
            f"{where} ends with {node.get('op_type', 'nothing')}, not with {expected}; export again"
        )
    parameters = [graph.constants.get(name) for name in node.get("input", [])[1:3]]
    scale, zero_point = (*parameters, None, None)[:2]
    if not (
        _is_scalar(scale, np.dtype("<f4"), np.float32(wire.scale))
        and _is_scalar(zero_point, np.dtype("u1"), np.uint8(wire.zero_point))
    ):
        raise ArtifactMismatchError(
            f"{where} ends with scale {scale} and zero point {zero_point}, and its manifest says "
            f"{np.float32(wire.scale)} and {wire.zero_point}; export again"
        )
    if wire.bits < 8:
        _check_bits(graph, node, wire, where)


def _check_bits(graph: _Graph, node: Message, wire: WireTensor, where: str) -> None:
    """Below 8 bits the stored integers must come from a Clip to 2^bits − 1, at the same scale."""
    source = _source(graph, node)
    if node.get("op_type") == "QuantizeLinear":
        # Stored integers pass through float once more; another scale could take them anywhere.
        same = _parameters(graph, source) == _parameters(graph, node)
        if source.get("op_type") != "DequantizeLinear" or not same:
            source = {}
        source = _source(graph, source)
    inputs = source.get("input", [])
    largest = graph.constants.get(inputs[2]) if len(inputs) == 3 else None
    fits = (
        largest is not None
        and largest.size == 1
        and largest.dtype == np.dtype("u1")
        and int(largest.max()) <= wire.largest
    )
    if source.get("op_type") != "Clip" or not fits:
        raise ArtifactMismatchError(
            f"{where} does not clip what it sends to the {wire.bits} bits of its manifest; "
            "export again"
        )


def _source(graph: _Graph, node: Message) -> Message:
    """Return the node that makes a node's first input, or an empty one."""
    inputs = node.get("input", [])
    return graph.producers.get(inputs[0], {}) if inputs else {}


def _parameters(graph: _Graph, node: Message) -> list[bytes | None]:
    values = [graph.constants.get(name) for name in node.get("input", [])[1:3]]
    return [None if value is None else value.tobytes() for value in values]


def _is_scalar(found: npt.NDArray[Any] | None, dtype: np.dtype[Any], expected: np.generic) -> bool:
    return (
        found is not None
        and found.size == 1
        and found.dtype == dtype
        and bool(found.reshape(())[()] == expected)
    )
