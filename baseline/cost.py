"""Multiply-accumulates and output shapes of every node of a traced network.

Convention: one multiplication with its addition is one MAC. Convolutions (also transposed) and
linear layers count, as modules or functions; biases, normalisation, activations, pooling and
element-wise arithmetic do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

#: Function → whether it is a transposed convolution; each takes (input, weight, …).
_CONVOLUTIONS = {
    functional.conv1d: False,
    functional.conv2d: False,
    functional.conv3d: False,
    functional.conv_transpose1d: True,
    functional.conv_transpose2d: True,
    functional.conv_transpose3d: True,
}


@dataclass(frozen=True)
class NodeCost:
    """What one node costs: ``macs`` for a batch of one; ``shape`` with the batch axis, or None."""

    macs: int
    shape: tuple[int, ...] | None


def node_costs(module: fx.GraphModule, input_shape: tuple[int, ...]) -> dict[str, NodeCost]:
    """Run one zero image through a traced network and return each node's cost by its name.

    Args:
        module: traced network with one tensor input, on the CPU.
        input_shape: shape of the input without the batch axis, such as (3, 64, 64).

    Returns:
        Node name → cost. ``shape`` is None where a node's value is no float tensor.
    """
    meter = _Meter(module)
    with torch.no_grad():
        meter.run(torch.zeros(1, *input_shape))
    return meter.costs


def convolution_macs(kernel: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Return the MACs of a convolution.

    Args:
        kernel: the weight's shape (out, in / groups, *window).
        output: the output's shape (N, out, *space).

    Returns:
        N · out · Π space · (in / groups) · Π window.
    """
    return math.prod(output) * math.prod(kernel[1:])


def linear_macs(weight: tuple[int, ...], output: tuple[int, ...]) -> int:
    """Return the MACs of a linear layer: elements of the output · input features.

    Args:
        weight: the weight's shape (out, in).
        output: the output's shape (N, …, out).
    """
    return math.prod(output) * weight[1]


class _Meter(fx.Interpreter):
    """Runs a graph node by node and keeps each node's cost."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.costs: dict[str, NodeCost] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        shape = tuple(value.shape) if _is_float_tensor(value) else None
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self.costs[n.name] = NodeCost(self._macs(n, args, kwargs, shape), shape)
        return value

    def _macs(
        self,
        node: fx.Node,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shape: tuple[int, ...] | None,
    ) -> int:
        if shape is None:
            return 0
        if node.op == "call_module":
            return _module_macs(self.module.get_submodule(str(node.target)), args, shape)
        if node.op == "call_function":
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            source = kwargs.get("input", args[0] if args else None)
            return _function_macs(node.target, source, weight, shape)
        return 0


def _module_macs(module: nn.Module, args: tuple[Any, ...], shape: tuple[int, ...]) -> int:
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        # Each input element meets the whole (out / groups, *window) slice of its channel.
        return convolution_macs(tuple(module.weight.shape), tuple(args[0].shape))
    if isinstance(module, nn.modules.conv._ConvNd):
        return convolution_macs(tuple(module.weight.shape), shape)
    if isinstance(module, nn.Linear):
        return linear_macs(tuple(module.weight.shape), shape)
    return 0


def _function_macs(target: Any, source: Any, weight: Any, shape: tuple[int, ...]) -> int:
    if not isinstance(weight, Tensor) or not isinstance(source, Tensor):
        return 0
    if target in _CONVOLUTIONS:
        space = tuple(source.shape) if _CONVOLUTIONS[target] else shape
        return convolution_macs(tuple(weight.shape), space)
    return linear_macs(tuple(weight.shape), shape) if target is functional.linear else 0


def _is_float_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
