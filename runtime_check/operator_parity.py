"""Which operators a runtime computes otherwise than eager INT8: each alone, on eager's own inputs.

A step that one operator gives away is multiplied by those that follow; here nothing follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export.bundle import Bundle
from export.fx_facts import node_values
from export.fx_graph import load_graph
from export.layer_reader import read_layers
from export.layers import Layer, LayerGraph, Value
from records.manifest import Artifact, TensorSpec
from records.parity import OperatorDifference
from records.progress import Progress
from runtime_check.eager import GRAPH, TENSORS
from runtime_check.runtime import LoadedArtifact
from runtime_check.torch_scope import torch_scope

XnnpackRuntime = Literal["executorch", "litert"]

#: They only move values.
_MOVING = frozenset({"reshape", "permute", "slice"})


@dataclass(frozen=True)
class LoneLayer:
    """One layer as a network of its own.

    ``inputs``: float32 (N, values of all its inputs). ``expected``: uint8 (N, …), what eager INT8
    made of them.
    """

    layer: Layer
    graph: LayerGraph
    inputs: npt.NDArray[np.float32]
    expected: npt.NDArray[np.uint8]


def operator_differences(
    bundle: Bundle, runtime: XnnpackRuntime, batch: npt.NDArray[np.float32], progress: Progress
) -> tuple[OperatorDifference, ...]:
    """Run each operator of the edge alone in a runtime, and name those that differ, worst first.

    Args:
        bundle: a verified bundle; its eager graph is read.
        runtime: whose writer and package are installed.
        batch: preprocessed images, float32 (N, 3, S, S).
        progress: called once an operator.

    Raises:
        ExportError: an operator has no layer.
        ArtifactError: a program of one operator does not run.
    """
    lone = lone_layers(bundle, batch)
    found = []
    for number, one in enumerate(lone):
        progress("check: operators", number, len(lone))
        found.append(_difference(bundle, runtime, one))
    progress("check: operators", len(lone), len(lone))
    differing = (one for one in found if one.differing)
    return tuple(sorted(differing, key=lambda one: -one.differing / one.values))


def lone_layers(bundle: Bundle, batch: npt.NDArray[np.float32]) -> tuple[LoneLayer, ...]:
    """Return every layer that computes, with what it took and gave in eager INT8.

    Args:
        bundle: a verified bundle.
        batch: preprocessed images, float32 (N, 3, S, S).
    """
    with torch_scope(1):
        graph, tensors = (bundle.path(bundle.artifact(name)) for name in (GRAPH, TENSORS))
        module = load_graph(graph, tensors)
        layers = read_layers(module, batch.shape[1:])
        values = node_values(module, torch.from_numpy(batch))
        values[layers.image.name] = torch.from_numpy(batch)
        return tuple(_lone_layers(layers, values))


def _lone_layers(layers: LayerGraph, values: dict[str, Any]) -> Iterator[LoneLayer]:
    for layer in layers.layers:
        expected = values[layer.output.name]
        if layer.kind in _MOVING or not expected.is_quantized:
            continue
        sources = [value for value in layer.inputs if isinstance(value, Value)]
        joined = torch.cat([_real(values[v.name]).flatten(1) for v in sources], 1)
        graph = _alone(layer, sources)
        yield LoneLayer(layer, graph, joined.numpy(), expected.int_repr().numpy())


def _real(value: Tensor) -> Tensor:
    return value.dequantize().contiguous() if value.is_quantized else value


def _alone(layer: Layer, sources: list[Value]) -> LayerGraph:
    """Cut the inputs out of one row of floats, put them on their grids, then the layer."""
    sizes = [int(np.prod(source.shape)) for source in sources]
    row = Value("row", (sum(sizes),))
    before: list[Layer] = []
    inputs: dict[Value, Value] = {}
    for number, (source, size) in enumerate(zip(sources, sizes, strict=True)):
        start = sum(sizes[:number])
        part, whole = Value(f"part_{number}", (size,)), Value(f"whole_{number}", source.shape)
        cut = {"axis": 1, "start": start, "end": start + size, "step": 1}
        before.append(Layer("slice", "slice", (row,), part, cut))
        before.append(Layer("reshape", "reshape", (part,), whole))
        inputs[source] = whole
        if source.grid is not None:
            inputs[source] = Value(f"source_{number}", source.shape, source.grid)
            before.append(Layer("quantize", "quantize", (whole,), inputs[source]))
    given = tuple(inputs[v] if isinstance(v, Value) else v for v in layer.inputs)
    # The name that the file's own output has must be free.
    output = Value("result", layer.output.shape, layer.output.grid)
    alone = Layer(layer.kind, layer.operator, given, output, layer.settings, layer.weights)
    return LayerGraph(row, (*before, alone), output)


def _difference(bundle: Bundle, runtime: XnnpackRuntime, one: LoneLayer) -> OperatorDifference:
    artifact = _described(bundle, runtime, one)
    found = _load(runtime, one.graph, artifact).run(one.inputs)
    off = np.abs(found.astype(np.int64) - one.expected.astype(np.int64))
    return OperatorDifference(
        runtime=runtime,
        node=one.layer.output.name,
        operator=one.layer.operator,
        kind=one.layer.kind,
        values=off.size,
        differing=int((off > 0).sum()),
        max_lsb=int(off.max()),
    )


def _described(bundle: Bundle, runtime: XnnpackRuntime, one: LoneLayer) -> Artifact:
    like = next(a for a in bundle.edges("int8") if a.boundary == "wire" and a.format == runtime)
    shape, output = one.graph.image.shape, one.graph.boundary.shape
    return msgspec.structs.replace(
        like,
        input=TensorSpec(name="input", shape=shape, dtype="float32"),
        output=TensorSpec(name="boundary", shape=output, dtype="uint8"),
    )


def _load(runtime: XnnpackRuntime, graph: LayerGraph, artifact: Artifact) -> LoadedArtifact:
    # Imported when asked for: either package may be missing.
    if runtime == "litert":
        from export.tflite import tflite_bytes
        from runtime_check.litert import load_litert

        return load_litert(tflite_bytes(graph, boundary="wire"), artifact, threads=1)
    from export.pte import lower
    from runtime_check.executorch import load_executorch

    return load_executorch(lower(graph, wire=True).data, artifact, threads=1)
