"""The state of writing one converted FX graph as QDQ ONNX: which node became which tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn

from export.onnx_graph import OnnxGraph
from records.errors import ExportError

#: The graph is run with both, so that a size that depends on the batch shows.
_BATCHES = (2, 3)
_UINT8_MAX = 255


@dataclass(frozen=True)
class Call:
    """One node of the converted graph that computes: a module, a function or a method."""

    node: fx.Node
    module: nn.Module | None

    @property
    def source(self) -> fx.Node:
        """The node that gives the first argument."""
        first = self.node.args[0] if self.node.args else self.node.kwargs.get("input")
        if not isinstance(first, fx.Node):
            refuse(self.node, "its first argument is not a tensor of the graph")
        return first

    def get(self, name: str, position: int | None = None, default: Any = None) -> Any:
        """Return a setting: the module's attribute, or the function's argument.

        Args:
            name: of the attribute or keyword.
            position: of the argument; None when it is a keyword only.
            default: what the function takes when it is not given.
        """
        if self.module is not None:
            return getattr(self.module, name, default)
        if position is not None and position < len(self.node.args):
            return self.node.args[position]
        return self.node.kwargs.get(name, default)


class QdqWriter:
    """Maps each FX node to the ONNX tensor that holds it, as float32 or as stored uint8.

    A quantized node has the stored form first; its float32 form, behind a DequantizeLinear, is made
    when an operator asks for it, and shared. A float node has the float32 form only.
    """

    def __init__(self, module: fx.GraphModule, input_shape: tuple[int, ...], opset: int) -> None:
        """Run the graph on empty images to learn every shape, scale and zero point."""
        self.graph = OnnxGraph(reserved=("input", "boundary"))
        self.opset = opset
        self._module = module
        small, large = (_run(module, torch.zeros(n, *input_shape)) for n in _BATCHES)
        self._values, self._others = small, large
        self._real: dict[fx.Node, str] = {}
        self._stored: dict[fx.Node, str] = {}
        self._parts: dict[fx.Node, list[str]] = {}
        self._parameters: dict[fx.Node, tuple[str, str]] = {}
        self._dequantized: dict[str, str] = {}
        self._quantizing: set[str] = set()
        self._reshaped: dict[str, tuple[str, tuple[int, ...]]] = {}

    def call(self, node: fx.Node) -> Call:
        """Return a computing node with the module that it calls, if any."""
        module = None
        if node.op == "call_module":
            module = self._module.get_submodule(str(node.target))
        return Call(node, module)

    def value(self, node: fx.Node) -> Any:
        """Return what the node computed for a batch of two: a tensor, tensors, sizes, weights."""
        return self._values[node.name]

    def computes_tensors(self, node: fx.Node) -> bool:
        """Whether the node's value is a tensor or a tuple of tensors, and not sizes."""
        value = self.value(node)
        if isinstance(value, tuple | list):
            return bool(value) and all(isinstance(part, Tensor) for part in value)
        return isinstance(value, Tensor)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return a tensor's shape without the batch axis.

        Raises:
            ExportError: its first axis is not the batch, or another size depends on the batch.
        """
        return self._without_batch(node, self.value(node), self._others[node.name])

    def part_sizes(self, node: fx.Node, axis: int) -> list[int]:
        """Return the sizes along ``axis`` of the tensors that a node divides its input into."""
        parts = zip(self.value(node), self._others[node.name], strict=True)
        return [(0, *self._without_batch(node, a, b))[axis] for a, b in parts]

    def is_quantized(self, node: fx.Node) -> bool:
        """Whether the node's tensor, or its first part, is stored as quint8."""
        value = self.value(node)
        first = value[0] if isinstance(value, tuple | list) else value
        return bool(first.is_quantized)

    def quantization(self, node: fx.Node) -> tuple[float, int]:
        """Return FX's own scale and zero point of a quantized node.

        The scale is the float32 that torch's kernels compute with.

        Raises:
            ExportError: they cannot stand in ONNX as float32 and uint8.
        """
        value = self.value(node)
        first = value[0] if isinstance(value, tuple | list) else value
        if first.dtype != torch.quint8 or first.qscheme() != torch.per_tensor_affine:
            refuse(node, f"its result is {first.dtype}, {first.qscheme()}, not quint8 per tensor")
        scale, zero_point = float(np.float32(first.q_scale())), int(first.q_zero_point())
        if not (scale >= torch.finfo(torch.float32).tiny and math.isfinite(scale)):
            refuse(node, f"its scale {scale} is no normal float32 number")
        if not 0 <= zero_point <= _UINT8_MAX:
            refuse(node, f"its zero point {zero_point} does not fit uint8")
        return scale, zero_point

    def real(self, argument: object) -> str:
        """Return the float32 tensor of a node or of a Python number, making it when missing.

        Raises:
            ExportError: the argument is neither.
        """
        if isinstance(argument, bool) or not isinstance(argument, fx.Node | int | float):
            raise ExportError(f"{argument!r} is no tensor and no number of the converted graph")
        if not isinstance(argument, fx.Node):
            return self.graph.constant("number", np.asarray(argument, np.float32))
        if argument in self._real:
            return self._real[argument]
        if argument.op == "get_attr":
            return self._float_attribute(argument)
        if not self.computes_tensors(argument):
            return self.real(self._host_number(argument))
        return self._dequantize(argument)

    def stored(self, node: fx.Node) -> str:
        """Return the uint8 tensor of a quantized node."""
        if node not in self._stored:
            refuse(node, "its quantized tensor is used before it is made")
        return self._stored[node]

    def wire(self, node: fx.Node) -> str:
        """Return the uint8 tensor of a quantized node, as the output of a QuantizeLinear.

        A tensor that was moved or clamped as integers passes through float32 once more, which
        changes nothing: its scale and zero point then stand at the very end of the file.
        """
        if self.stored(node) not in self._quantizing:
            real = self._dequantize(node)
            self._stored[node] = self._quantize(node, real)
        return self.stored(node)

    def either(self, node: fx.Node) -> str:
        """Return the stored tensor of a quantized node, the float32 tensor of a float one."""
        return self.stored(node) if self.is_quantized(node) else self.real(node)

    def parameters(self, node: fx.Node) -> list[str]:
        """Return the initializers of a quantized node's scale and zero point."""
        if node not in self._parameters:
            scale, zero_point = self.quantization(node)
            self._parameters[node] = (
                self.graph.constant(f"{node.name}_scale", np.asarray(scale, np.float32)),
                self.graph.constant(f"{node.name}_zero_point", np.asarray(zero_point, np.uint8)),
            )
        return list(self._parameters[node])

    def operate(self, call: Call, kind: str, inputs: list[str], **attributes: Any) -> None:
        """Add a float32 operator that computes the node; quantize its result as FX does."""
        self.put_real(call.node, self.inner(call, kind, inputs, **attributes))

    def inner(self, call: Call, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Add a float32 operator on the way to the node's result and return its output."""
        del call
        return self.graph.node(kind, inputs, **attributes)

    def put_real(self, node: fx.Node, name: str) -> None:
        """Let float32 tensor ``name`` be the node; a quantized node gets a QuantizeLinear."""
        if not self.is_quantized(node):
            self._real[node] = name
            return
        self._stored[node] = self._quantize(node, name)

    def put_stored(self, node: fx.Node, name: str) -> None:
        """Let uint8 tensor ``name`` be the quantized node, at the node's own scale."""
        self._stored[node] = name

    def put_either(self, node: fx.Node, name: str, source: fx.Node) -> None:
        """Let ``name``, computed on stored integers or on floats alike, be the node.

        Raises:
            ExportError: the node's scale or zero point differ from its source's.
        """
        if self.is_quantized(node) != self.is_quantized(source):
            refuse(node, "it changes between float and quantized on the way")
        if not self.is_quantized(node):
            self._real[node] = name
            return
        self.keep_parameters(node, source)
        self._stored[node] = name

    def keep_parameters(self, node: fx.Node, source: fx.Node) -> None:
        """Give the node its source's scale and zero point, which FX must agree with."""
        if self.quantization(node) != self.quantization(source):
            refuse(node, "it changes the scale of its input, which only moves or clamps values")
        self.parameters(source)
        self._parameters[node] = self._parameters[source]

    def note_reshape(self, result: str, name: str, shape: tuple[int, ...]) -> None:
        """Remember that ``result`` is ``name``, of (N, *shape), in another shape."""
        self._reshaped[result] = name, shape

    def flattened(self, result: str, shape: tuple[int, ...]) -> str | None:
        """Return the tensor of (N, *shape) that ``result`` is in another shape, if there is one."""
        name, before = self._reshaped.get(result, ("", ()))
        return name if name and before == shape else None

    def put_parts(self, node: fx.Node, names: list[str]) -> None:
        """Let several tensors be the parts of a node that divides its input."""
        self._parts[node] = names

    def part(self, node: fx.Node, index: int) -> str:
        """Return one of the tensors that a node divided its input into."""
        return self._parts[node][index]

    def _quantize(self, node: fx.Node, name: str) -> str:
        stored = self.graph.node("QuantizeLinear", [name, *self.parameters(node)], node.name)
        self._quantizing.add(stored)
        return stored

    def _dequantize(self, node: fx.Node) -> str:
        stored = self.stored(node)
        if stored not in self._dequantized:
            inputs = [stored, *self.parameters(node)]
            self._dequantized[stored] = self.graph.node("DequantizeLinear", inputs)
        return self._dequantized[stored]

    def _float_attribute(self, node: fx.Node) -> str:
        value = self.value(node)
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            refuse(node, "it is read as a float32 tensor and is none")
        self._real[node] = self.graph.constant(node.name, value.detach().numpy())
        return self._real[node]

    def _host_number(self, node: fx.Node) -> float:
        value = self.value(node)
        if not isinstance(value, int | float) or value != self._others[node.name]:
            refuse(node, "it is used as a number and depends on the batch size")
        return value

    def _without_batch(self, node: fx.Node, small: Tensor, large: Tensor) -> tuple[int, ...]:
        rest = tuple(small.shape[1:])
        if (small.shape[:1], large.shape[:1]) != ((_BATCHES[0],), (_BATCHES[1],)):
            refuse(node, f"the first axis of its result {tuple(small.shape)} is not the batch")
        if rest != tuple(large.shape[1:]):
            refuse(node, "a size of its result other than the first depends on the batch size")
        return rest


#: Writes one call.
OperatorWriter = Callable[[QdqWriter, Call], None]


def refuse(node: fx.Node, why: str) -> NoReturn:
    """Raise the ExportError that names a node and its operator."""
    raise ExportError(
        f"node {node.name!r} ({operator_name(node)}) cannot be written as QDQ ONNX: {why}"
    )


def operator_name(node: fx.Node) -> str:
    """Return how the graph calls a node's operator, for people."""
    if isinstance(node.target, str):
        return f"{node.op} {node.target}"
    return f"{node.op} {getattr(node.target, '__name__', node.target)}"


class _Watch(fx.Interpreter):
    """Runs a graph and keeps every node's value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


def _run(module: fx.GraphModule, images: Tensor) -> dict[str, Any]:
    watch = _Watch(module)
    with torch.no_grad():
        watch.run(images)
    return watch.values
