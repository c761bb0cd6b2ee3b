"""Static scan of an ``.ort`` file: what ONNX Runtime would act on, before it sees the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from export.bundle_errors import (
    ArtifactMismatchError,
    MalformedArtifactError,
    NonFiniteWeightsError,
    UnsafeOperatorError,
)
from export.flatbuffer import FlatbufferError, Message, parse
from export.onnx_scan import MAX_NODES, refused_operator
from export.ort_schema import DATA_TYPES, FLOAT, IDENTIFIER, SESSION, UINT8
from records.manifest import Artifact, TensorSpec

PROVIDERS = frozenset({"", "CPUExecutionProvider"})

#: What ONNX Runtime's portable optimizations make of FP32 graphs.
_FUSED = frozenset({("com.microsoft", "FusedConv"), ("com.microsoft", "FusedGemm")})
_ELEMENT_TYPES = {"float32": FLOAT, "uint8": UINT8}
_VALUE = 1


def scan_ort(data: bytes, artifact: Artifact, where: str) -> None:
    """Verify an ``.ort`` file without running it.

    Args:
        data: the file's bytes.
        artifact: what the manifest says of it.
        where: the file's path, for errors.

    Raises:
        MalformedArtifactError: no flatbuffer of the schema within the limits, or values that are
            used before they are made.
        UnsafeOperatorError: control flow, an operator of an unknown domain, or one that is bound to
            another device than the CPU.
        NonFiniteWeightsError: a stored number is NaN or infinite.
        ArtifactMismatchError: opset or ends are not the manifest's.
    """
    try:
        session = parse(data, SESSION, identifier=IDENTIFIER)
    except FlatbufferError as error:
        raise MalformedArtifactError(f"{where} is not an .ort file: {error}; export again") from (
            error
        )
    model = session.get("model", {})
    graph = model.get("graph", {})
    opsets = {o.get("domain", ""): o.get("version", 0) for o in model.get("opset_import", [])}
    if opsets.get("", opsets.get("ai.onnx")) != artifact.opset:
        raise ArtifactMismatchError(
            f"{where} imports opset {opsets.get('')} and its manifest says {artifact.opset}"
        )
    later = graph.get("runtime_optimizations", {}).get("records")
    if later or graph.get("sparse_initializers"):
        raise MalformedArtifactError(f"{where} has sparse tensors or is not optimized")
    _check_values(graph, where)
    described = {v.get("name", ""): v for v in graph.get("node_args", [])}
    _check_end(graph.get("inputs", []), described, artifact.input, where, "input")
    _check_end(graph.get("outputs", []), described, artifact.output, where, "output")


def _check_values(graph: Message, where: str) -> None:
    nodes = graph.get("nodes", [])
    if len(nodes) > MAX_NODES or graph.get("max_node_index", 0) > MAX_NODES:
        raise MalformedArtifactError(f"{where} has {len(nodes)} nodes, over {MAX_NODES}")
    made = set(graph.get("inputs", []))
    for tensor in graph.get("initializers", []):
        _check_tensor(tensor, f"{where}: initializer {tensor.get('name', '')!r}")
        made.add(tensor.get("name", ""))
    outputs = [name for node in nodes for name in node.get("outputs", []) if name]
    if len(set(outputs)) != len(outputs) or made & set(outputs):
        raise MalformedArtifactError(f"{where} makes a value twice; export again")
    # Nodes are stored by index, not in the order in which they run.
    made |= set(outputs)
    for node in nodes:
        _check_node(node, made, where)


def _check_node(node: Message, made: set[str], where: str) -> None:
    operator, domain = node.get("op_type", ""), node.get("domain", "")
    label = f"{where}: node {node.get('name', '')!r} ({operator})"
    if _refused(operator, domain) or node.get("implicit_inputs"):
        raise UnsafeOperatorError(f"{label} of domain {domain!r} is not allowed in a bundle")
    if node.get("type", 0) or node.get("execution_provider_type", "") not in PROVIDERS:
        raise UnsafeOperatorError(f"{label} is bound to another device than the CPU")
    missing = [name for name in node.get("inputs", []) if name and name not in made]
    if missing:
        raise MalformedArtifactError(f"{label} uses {missing[0]!r}, which nothing makes")
    for attribute in node.get("attributes", []):
        numbers = [attribute.get("f", 0.0), *attribute.get("floats", np.empty(0)).tolist()]
        if not all(math.isfinite(number) for number in numbers):
            raise NonFiniteWeightsError(f"{label} has an attribute that is NaN or infinite")
        stored = [attribute["t"]] if "t" in attribute else []
        for tensor in [*stored, *attribute.get("tensors", [])]:
            _check_tensor(tensor, label)


def _refused(operator: str, domain: str) -> bool:
    return refused_operator(operator, domain) and (domain, operator) not in _FUSED


def _check_tensor(tensor: Message, label: str) -> None:
    kind = tensor.get("data_type", 0)
    dims = tensor.get("dims", np.empty(0, np.int64)).tolist()
    if kind not in DATA_TYPES or any(not 0 <= size < 1 << 32 for size in dims):
        raise MalformedArtifactError(f"{label} has the type {kind}, shape {dims}; export again")
    dtype = np.dtype(f"<{DATA_TYPES[kind]}")
    raw = tensor.get("raw_data", np.empty(0, np.uint8))
    if len(raw) != math.prod(dims) * dtype.itemsize:
        raise MalformedArtifactError(f"{label} has {len(raw)} bytes for {dims}; export again")
    if dtype.kind == "f" and not np.isfinite(np.frombuffer(raw.tobytes(), dtype)).all():
        raise NonFiniteWeightsError(f"{label} is NaN or infinite; export again")


def _check_end(
    names: list[str], described: dict[str, Any], spec: TensorSpec, where: str, what: str
) -> None:
    found = [(name, *_shape(described.get(name, {}))) for name in names]
    expected = (spec.name, _ELEMENT_TYPES[spec.dtype], [None, *spec.shape])
    if found != [expected]:
        raise ArtifactMismatchError(
            f"{where} has the {what}s {found} (name, type, shape) and its manifest says "
            f"{[expected]}; export again"
        )


def _shape(value: Message) -> tuple[int, list[int | None]]:
    """Return element type and sizes; None stands for an axis of any size."""
    tensor = value.get("type", {}).get("value", {})
    dims = [d.get("value", {}) for d in tensor.get("shape", {}).get("dim", [])]
    sizes = [d.get("dim_value", 0) if d.get("dim_type") == _VALUE else None for d in dims]
    return tensor.get("elem_type", 0), sizes
