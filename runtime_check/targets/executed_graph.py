"""The nodes that ONNX Runtime executes on a target, in order, from its optimized graph and profile.

The graph names what each node computes, the profile says in which order and of which shape: see
https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html and
https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from records.errors import ArtifactError, UnsupportedHereError
from records.manifest import Artifact
from records.parity import Mode
from runtime_check.targets.session import RunnerSession

#: What an optimized graph or a profile may have beyond the bytes of the model.
_ROOM = 64 * 1024 * 1024
_ENDING = "_kernel_time"


@dataclass(frozen=True)
class ExecutedNode:
    """One node of the optimized graph.

    Attributes:
        operator: with its domain before it, but for ONNX's own.
        output: name of its first output tensor in the optimized graph.
        tensor: the tensor of the exported file that it computes; None where that has none. The
            optimizer names many of its nodes' outputs after the file's node.
        dtype: of that output, as ONNX Runtime names it.
        shape: of that output for one image.
    """

    operator: str
    output: str
    tensor: str | None
    dtype: str
    shape: tuple[int, ...]


class _Arguments(msgspec.Struct, frozen=True):
    op_name: str = ""
    output_type_shape: tuple[dict[str, tuple[int, ...]], ...] = ()


class _Event(msgspec.Struct, frozen=True):
    cat: str
    name: str
    args: _Arguments = _Arguments()


def executed_nodes(
    session: RunnerSession, data: bytes, artifact: Artifact, mode: Mode
) -> tuple[ExecutedNode, ...]:
    """Return the nodes of an ONNX model as the runtime of a target executes them.

    Args:
        session: where.
        data: the whole ``.onnx`` file.
        artifact: says what it is.
        mode: of the runtime.

    Raises:
        ArtifactError: the runtime there refuses it, or its answer is none.
        UnsupportedHereError: graph and profile do not fit together, or onnx is not installed.
    """
    request = {
        "mode": mode,
        "threads": 1,
        "input": artifact.input.name,
        "output": artifact.output.name,
        "shape": [1, *artifact.input.shape],
    }
    most = 4 * len(data) + _ROOM
    _, graph = session.ask(request | {"do": "optimized"}, data, largest=most)
    _, profile = session.ask(request | {"do": "profile"}, data, largest=most)
    return joined(data, graph, profile)


def joined(written: bytes, graph: bytes, profile: bytes) -> tuple[ExecutedNode, ...]:
    """Return the nodes of an optimized graph with the shapes of a profile of one run.

    Args:
        written: the ``.onnx`` file that was exported.
        graph: an ``.onnx`` file that ONNX Runtime wrote.
        profile: JSON that ONNX Runtime wrote.

    Raises:
        ArtifactError: one of them cannot be read.
        UnsupportedHereError: they do not have the same nodes (by name; in the same order where a
            node has none), or onnx is not installed.
    """
    events = _kernels(profile)
    nodes = _in_order(_model(graph).graph.node, events)
    tensors = _tensors(_model(written))
    return tuple(_executed(node, event, tensors) for node, event in zip(nodes, events, strict=True))


def _model(data: bytes) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise UnsupportedHereError(
            "reading a graph takes onnx; run: pip install 'edgeveil[export]'"
        ) from error
    try:
        return onnx.load_model_from_string(data)
    # protobuf's DecodeError comes from a module that onnx does not export.
    except Exception as error:
        raise ArtifactError(f"the graph cannot be read as ONNX: {error}") from error


def _in_order(nodes: Sequence[Any], events: Sequence[_Event]) -> Sequence[Any]:
    """Return the nodes in the order of the events, which is that of execution."""
    named = {node.name + _ENDING: node for node in nodes if node.name}
    if len(named) == len(nodes):
        found = [named.pop(event.name, None) for event in events]
    else:
        found = list(nodes)
    same = len(found) == len(events) == len(nodes) and all(
        node is not None
        and node.op_type == event.args.op_name
        and (not node.name or event.name == node.name + _ENDING)
        for node, event in zip(found, events, strict=True)
    )
    if not same:
        raise UnsupportedHereError(
            f"the optimized graph has {len(nodes)} nodes and the profile {len(events)}, and they "
            "are not the same; instructions cannot be given to nodes"
        )
    return found


def _tensors(model: Any) -> dict[str, str]:
    """Return names that an optimizer may give an output → the tensor of the file that it is."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in model.graph.node:
        behind = readers.get(node.output[0], [])
        quantized = len(behind) == 1 and behind[0].op_type == "QuantizeLinear"
        found[node.name] = behind[0].output[0] if quantized else node.output[0]
    # A name that is a tensor's own means that tensor.
    return found | {name: name for node in model.graph.node for name in node.output}


def _executed(node: Any, event: _Event, tensors: dict[str, str]) -> ExecutedNode:
    output = next(iter(node.output), "")
    dtype, shape = next(iter([*event.args.output_type_shape, {}][0].items()), ("", ()))
    return ExecutedNode(
        operator=f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
        output=output,
        tensor=tensors.get(output),
        dtype=dtype,
        shape=shape,
    )


def _kernels(profile: bytes) -> Sequence[_Event]:
    try:
        events = msgspec.json.decode(profile, type=tuple[_Event, ...])
    except msgspec.DecodeError as error:
        raise ArtifactError(f"the runtime's profile cannot be read: {error}") from error
    return [event for event in events if event.cat == "Node" and event.name.endswith(_ENDING)]
