"""What a traced edge computes, node by node: shapes, scales, sizes, learnt from empty images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, fx, nn

from export.fx_modules import QuantizedActivation, QuantizedLayer
from export.layers import Grid, Value
from records.errors import ExportError

#: Key of torchvision's function, known by name: importing torchvision takes seconds.
STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth"
#: The graph is run with both, so that a size that depends on the batch shows.
_BATCHES = (2, 3)


def key_of(node: fx.Node, module: nn.Module | None) -> object:
    """Return what decides how a node is read: the module's type, the function, or the method."""
    if module is not None:
        return type(module)
    if getattr(node.target, "__module__", None) == STOCHASTIC_DEPTH:
        return STOCHASTIC_DEPTH
    return node.target


@dataclass(frozen=True)
class Call:
    """One node that computes: a module, a function or a method."""

    node: fx.Node
    module: nn.Module | None

    @property
    def key(self) -> object:
        """What decides how the node is read: the module's type, the function, or the method.

        A layer that was read back from a bundle is what its operator is.
        """
        if isinstance(self.module, QuantizedLayer | QuantizedActivation):
            return self.module.operator
        return key_of(self.node, self.module)

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


class GraphFacts:
    """Every node's value for two batches of empty images."""

    def __init__(self, module: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
        """Run the graph; a quantized one needs engine qnnpack."""
        self._module = module
        self._values, self._others = (
            node_values(module, torch.zeros(count, *input_shape)) for count in _BATCHES
        )

    def call(self, node: fx.Node) -> Call:
        """Return a computing node with the module that it calls, if any."""
        module = None
        if node.op == "call_module":
            module = self._module.get_submodule(str(node.target))
        return Call(node, module)

    def raw(self, node: fx.Node) -> Any:
        """Return what the node computed for a batch of two."""
        return self._values[node.name]

    def computes_tensors(self, node: fx.Node) -> bool:
        """Whether the node's value is a tensor or a tuple of tensors, and not sizes."""
        value = self.raw(node)
        if isinstance(value, tuple | list):
            return bool(value) and all(isinstance(part, Tensor) for part in value)
        return isinstance(value, Tensor)

    def value(self, node: fx.Node) -> Value:
        """Return a node's tensor: its shape without the batch axis, and its grid if it has one.

        Raises:
            ExportError: the first axis is not the batch, another size depends on the batch, or the
                scale or zero point cannot be stored.
        """
        small, large = self.raw(node), self._others[node.name]
        if not isinstance(small, Tensor):
            refuse(node, "it gives no single tensor")
        rest = tuple(small.shape[1:])
        if (small.shape[:1], large.shape[:1]) != ((_BATCHES[0],), (_BATCHES[1],)):
            refuse(node, f"the first axis of its result {tuple(small.shape)} is not the batch")
        if rest != tuple(large.shape[1:]):
            refuse(node, "a size of its result other than the first depends on the batch size")
        return Value(node.name, rest, _grid(node, small) if small.is_quantized else None)

    def number(self, node: fx.Node) -> float:
        """Return a number that the graph computes.

        Raises:
            ExportError: it is none, or depends on the batch size.
        """
        value = self.raw(node)
        if not isinstance(value, int | float) or value != self._others[node.name]:
            refuse(node, "it is used as a number and is none, or depends on the batch size")
        return float(value)


def refuse(node: fx.Node, why: str) -> NoReturn:
    """Raise the ExportError that names a node and its operator."""
    raise ExportError(
        f"node {node.name!r} ({operator_name(node)}) cannot be written as .tflite or .pte: {why}; "
        "leave these formats out (--formats ptl,onnx), or cut the network before it"
    )


def operator_name(node: fx.Node) -> str:
    """Return how the graph calls a node's operator, for people."""
    if isinstance(node.target, str):
        return f"{node.op} {node.target}"
    return f"{node.op} {getattr(node.target, '__name__', node.target)}"


def _grid(node: fx.Node, tensor: Tensor) -> Grid:
    if tensor.dtype != torch.quint8 or tensor.qscheme() != torch.per_tensor_affine:
        refuse(node, f"its result is {tensor.dtype}, {tensor.qscheme()}, not quint8 per tensor")
    scale, zero_point = float(np.float32(tensor.q_scale())), int(tensor.q_zero_point())
    if not (scale >= torch.finfo(torch.float32).tiny and math.isfinite(scale)):
        refuse(node, f"its scale {scale} is no normal float32 number")
    if not 0 <= zero_point <= 255:
        refuse(node, f"its zero point {zero_point} does not fit uint8")
    return Grid(scale, zero_point)


class _Watch(fx.Interpreter):
    """Runs a graph and keeps every node's value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


def node_values(module: fx.GraphModule, batch: Tensor) -> dict[str, Any]:
    """Run a graph and return what each node computed, by the node's name.

    Args:
        module: a quantized one needs engine qnnpack.
        batch: float32 (N, 3, S, S).
    """
    watch = _Watch(module)
    with torch.no_grad():
        watch.run(batch)
    return watch.values
