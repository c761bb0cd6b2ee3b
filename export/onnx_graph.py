"""Building a small ONNX graph, and serializing a model to the same bytes every time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from records.errors import ExportError

PRODUCER = "edgeveil"
#: Name of the dynamic batch axis in every model that edgeveil writes.
BATCH_AXIS = "N"


#: Constants of so few values (scalars, shapes) are not called after what reads them.
_FEW_VALUES = 8


class OnnxGraph:
    """Nodes and initializers in the order in which they are added.

    Names are a third of a small file: equal constants are stored once, and what is only passed from
    one node to the next is numbered.
    """

    def __init__(self, reserved: tuple[str, ...]) -> None:
        """Start empty; ``reserved`` names are left for the graph's ends."""
        self._taken = set(reserved)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._numbers = itertools.count(1)
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def unused(self, name: str) -> str:
        """Reserve and return ``name``, or the first free ``name_2``, ``name_3`` …."""
        chosen, count = name, 1
        while chosen in self._taken:
            count += 1
            chosen = f"{name}_{count}"
        self._taken.add(chosen)
        return chosen

    def numbered(self, letter: str) -> str:
        """Return a short name that is not taken, such as ``t12``."""
        return self.unused(f"{letter}{next(self._numbers)}")

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Return the initializer of an array of any shape and dtype, stored once for all equals.

        A large array that is new gets the name given, or the first free ``name_2`` …; a small one a
        number.
        """
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            chosen = self.numbered("c") if array.size <= _FEW_VALUES else self.unused(name)
            self._constants[key] = self._store(chosen, array)
        return self._constants[key]

    def own_constant(self, name: str, array: npt.NDArray[Any]) -> str:
        """Return an initializer of any shape of its own; without a name it is numbered.

        Where a CPU cannot multiply int8 weights, ONNX Runtime makes uint8 ones and names them after
        these: two layers that share a weight or its zero points would make one name twice.
        """
        chosen = self.unused(name) if name else self.numbered("c")
        return self._store(chosen, np.asarray(array, order="C"))

    def _store(self, name: str, array: npt.NDArray[Any]) -> str:
        self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name; empty inputs are omitted.

        Without a name of its own the output is numbered.
        """
        return self.nodes(kind, inputs, [output], **attributes)[0]

    def nodes(
        self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs and return their names."""
        chosen = [self.unused(name) if name else self.numbered("t") for name in outputs]
        self._nodes.append(helper.make_node(kind, inputs, chosen, **attributes))
        return chosen

    def rename(self, old: str, new: str) -> None:
        """Give the tensor ``old`` the reserved name ``new`` wherever it is made or read."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new

    def model(
        self, source: onnx.ValueInfoProto, result: onnx.ValueInfoProto, *, opset: int
    ) -> onnx.ModelProto:
        """Return the model with one input and one output, not yet checked.

        What the output does not depend on is left out: a runtime would compute it all the same.
        """
        nodes, needed = self._needed(result.name)
        constants = [tensor for tensor in self._initializers if tensor.name in needed]
        graph = helper.make_graph(nodes, "main_graph", [source], [result], initializer=constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])

    def _needed(self, result: str) -> tuple[list[onnx.NodeProto], set[str]]:
        needed, nodes = {result}, []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.output):
                nodes.append(node)
                needed.update(node.input)
        return nodes[::-1], needed


def batched(name: str, element_type: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    """Return the description of a graph end (N, *shape) with a dynamic batch axis."""
    return helper.make_tensor_value_info(name, element_type, [BATCH_AXIS, *shape])


def model_bytes(model: onnx.ModelProto, name: str) -> bytes:
    """Check a model and serialize it with nothing in it that depends on where or when it was made.

    Doc strings, metadata and stack traces are dropped, so that no path of this machine leaks; nodes
    are numbered; the IR version is the oldest that the opset allows, for older runtimes.

    Args:
        model: is stripped in place.
        name: the file that it is for, for errors.

    Returns:
        The content of the ``.onnx`` file.

    Raises:
        ExportError: the model is not valid ONNX.
    """
    _strip(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{name} would not be valid ONNX: {error}") from error
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _strip(model: onnx.ModelProto) -> None:
    # ONNX Runtime derives the names of new tensors from those of nodes: they must differ.
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    for part in _parts(model.graph):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for field in ("doc_string", "metadata_props", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    model.producer_name = PRODUCER
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))


def _parts(graph: onnx.GraphProto) -> list[Any]:
    """Return a graph and everything in it that can carry a doc string or metadata."""
    parts: list[Any] = [graph, *graph.node, *graph.initializer]
    parts += [*graph.input, *graph.output, *graph.value_info]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                parts += _parts(inner)
    return parts
