"""From a traced edge, FP32 or converted by FX, to the list of layers that other formats take.

One reader for both, so that every variant of an operator (module, function, method, with a fused
ReLU) is understood once. Nothing is calibrated: grids, weights and biases are FX's own.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.ao.nn import intrinsic, quantized
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from export.fx_facts import STOCHASTIC_DEPTH, Call, GraphFacts, operator_name, refuse
from export.fx_modules import QuantizedActivation, QuantizedLayer
from export.layer_weights import float_weights, quantized_weights
from export.layers import Kind, Layer, LayerGraph, Value, Weights
from export.quantize import qnnpack_engine
from records.errors import ExportError


def read_layers(module: fx.GraphModule, input_shape: tuple[int, ...]) -> LayerGraph:
    """Read a converted edge, which ends with a dequantize, or an FP32 edge.

    Args:
        module: ``QuantizedEdge.float_boundary``, also as a bundle keeps it, or
            ``SplitNetwork.edge``; not changed. BatchNorm is folded into the convolution before it.
        input_shape: (3, S, S), without the batch axis.

    Returns:
        The layers; the boundary of a converted edge is on the wire's grid.

    Raises:
        ExportError: an operator, weight or scale has no layer; names the node.
    """
    with qnnpack_engine():
        folded = fuse(module) if _has_batch_norm(module) else module
        if not isinstance(folded, fx.GraphModule):
            raise ExportError("folding BatchNorm did not return a graph")
        reader = LayerReader(folded, input_shape)
        for node in folded.graph.nodes:
            reader.read(node)
        last = folded.graph.output_node().args[0]
        if not isinstance(last, fx.Node):
            raise ExportError("the edge returns no single tensor of its graph")
        return LayerGraph(reader.image, tuple(reader.layers), reader.value(last))


def _has_batch_norm(module: fx.GraphModule) -> bool:
    return any(type(m) is nn.BatchNorm2d for m in module.modules())


class LayerReader:
    """Appends one layer a node; what changes no value is an alias of its source."""

    def __init__(self, module: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
        """Run the graph once to know every shape and grid."""
        self.facts = GraphFacts(module, input_shape)
        self.layers: list[Layer] = []
        self.image = Value("input", input_shape)
        self._values: dict[fx.Node, Value] = {}

    def read(self, node: fx.Node) -> None:
        """Read one node of the graph, in its order."""
        if node.op == "placeholder":
            self._values[node] = self.image
        elif node.op.startswith("call_") and node.users and self.facts.computes_tensors(node):
            call = self.facts.call(node)
            read = _READERS.get(call.key)
            if read is None:
                refuse(node, "there is no layer for it")
            read(self, call)

    def value(self, node: fx.Node) -> Value:
        """Return the tensor of a node that was read before."""
        if node not in self._values:
            refuse(node, "its tensor is used and was not read as a layer")
        return self._values[node]

    def argument(self, call: Call, argument: Any) -> Value | float:
        """Return an argument as a tensor or a number."""
        if isinstance(argument, fx.Node):
            if self.facts.computes_tensors(argument):
                return self.value(argument)
            return self.facts.number(argument)
        if isinstance(argument, bool) or not isinstance(argument, int | float):
            refuse(call.node, f"{argument!r} is no tensor and no number")
        return float(argument)

    def add(
        self,
        call: Call,
        kind: Kind,
        inputs: tuple[Value | float, ...],
        weights: Weights | None = None,
        **settings: Any,
    ) -> None:
        """Append the layer that computes a node's tensor."""
        self._append(call, kind, inputs, self.facts.value(call.node), weights, settings)

    def _append(
        self,
        call: Call,
        kind: Kind,
        inputs: tuple[Value | float, ...],
        output: Value,
        weights: Weights | None,
        settings: dict[str, Any],
    ) -> None:
        name = operator_name(call.node)
        if call.module is not None:
            name = f"{call.node.target} ({getattr(call.key, '__name__', call.key)})"
        self.layers.append(Layer(kind, name, inputs, output, settings, weights))
        self._values[call.node] = output

    def add_moving(self, call: Call, kind: Kind, source: Value, **settings: Any) -> None:
        """Append a layer that moves or picks values; it keeps its source's grid.

        What FX dequantizes first is moved on the grid all the same: no value changes.
        """
        output = self.facts.value(call.node)
        if output.grid not in (None, source.grid):
            refuse(call.node, "it changes the grid of values that it only moves or picks")
        kept = dataclasses.replace(output, grid=source.grid)
        self._append(call, kind, (source,), kept, None, settings)

    def alias(self, call: Call, source: Value) -> None:
        """Let a node be its source: the same values."""
        self._values[call.node] = source

    def require_one_precision(self, call: Call) -> None:
        """Refuse an operator that FX left in float between quantized ones."""
        output = self.facts.value(call.node)
        inputs = [self._values[n] for n in call.node.all_input_nodes if n in self._values]
        if any((value.grid is None) != (output.grid is None) for value in inputs):
            refuse(call.node, "FX left it in float between quantized tensors")


# --- operators with weights ----------------------------------------------------------------------


def _quantized_convolution(reader: LayerReader, call: Call) -> None:
    source = reader.value(call.source)
    if call.get("padding_mode", None, "zeros") not in (None, "zeros"):
        refuse(call.node, "only zero padding is written")
    packed, output = _packed(reader, call), reader.facts.value(call.node)
    weights = quantized_weights(call.node, source, output, *packed.unpack())
    reader.add(
        call,
        "convolution",
        (source,),
        weights,
        stride=_pair(packed.stride()),
        padding=_pair(packed.padding()),
        dilation=_pair(packed.dilation()),
        groups=int(packed.groups()),
        relu=_has_relu(call),
    )


def _float_convolution(reader: LayerReader, call: Call) -> None:
    module = call.module
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros":
        refuse(call.node, "only zero padding is written")
    if isinstance(module.padding, str):
        refuse(call.node, f"padding {module.padding!r} by name is not written")
    reader.require_one_precision(call)
    reader.add(
        call,
        "convolution",
        (reader.value(call.source),),
        float_weights(module.weight, module.bias),
        stride=_pair(module.stride),
        padding=_pair(module.padding),
        dilation=_pair(module.dilation),
        groups=module.groups,
    )


def _quantized_linear(reader: LayerReader, call: Call) -> None:
    source, output = reader.value(call.source), reader.facts.value(call.node)
    if isinstance(call.module, quantized.Linear):
        weight, bias = call.get("weight")(), call.get("bias")()
    else:
        weight, bias = torch.ops.quantized.linear_unpack(_packed(reader, call))
    weights = quantized_weights(call.node, source, output, weight, bias)
    reader.add(call, "linear", (source,), weights, relu=_has_relu(call))


def _float_linear(reader: LayerReader, call: Call) -> None:
    reader.require_one_precision(call)
    weights = float_weights(call.get("weight"), call.get("bias"))
    reader.add(call, "linear", (reader.value(call.source),), weights)


def _packed(reader: LayerReader, call: Call) -> Any:
    if isinstance(call.module, QuantizedLayer):
        return call.module.packed
    if call.module is not None:
        return call.get("_packed_params")
    return reader.facts.raw(_node(call, 1))


def _node(call: Call, position: int) -> Any:
    return call.node.args[position]


def _has_relu(call: Call) -> bool:
    return isinstance(call.module, _RECTIFYING_MODULES) or call.key in _RECTIFYING


# --- operators on each value ---------------------------------------------------------------------


def _quantize(reader: LayerReader, call: Call) -> None:
    source = reader.value(call.source)
    if source.grid == reader.facts.value(call.node).grid:
        reader.alias(call, source)
        return
    reader.add(call, "quantize", (source,))


def _alias(reader: LayerReader, call: Call) -> None:
    reader.alias(call, reader.value(call.source))


def _dropout(reader: LayerReader, call: Call) -> None:
    place = 3 if call.key == STOCHASTIC_DEPTH else 2
    if call.module is None and call.get("training", place, True):
        refuse(call.node, "a dropout outside eval mode is random")
    _alias(reader, call)


def _function(kind: Kind) -> OperatorReader:
    def read(reader: LayerReader, call: Call) -> None:
        reader.require_one_precision(call)
        reader.add(call, kind, (reader.value(call.source),))

    return read


def _leaky_relu(reader: LayerReader, call: Call) -> None:
    reader.require_one_precision(call)
    if isinstance(call.module, QuantizedActivation):
        slope = float(call.module.arguments[0])
    else:
        slope = float(call.get("negative_slope", 1, 0.01))
    reader.add(call, "leaky_relu", (reader.value(call.source),), slope=slope)


def _binary(kind: Kind, *, relu: bool = False) -> OperatorReader:
    def read(reader: LayerReader, call: Call) -> None:
        if call.node.kwargs:
            refuse(call.node, f"arguments {sorted(call.node.kwargs)} are not written")
        inputs = tuple(reader.argument(call, argument) for argument in call.node.args[:2])
        reader.require_one_precision(call)
        reader.add(call, kind, inputs, relu=relu)

    return read


def _clamp_to(lower: float | None, upper: float | None) -> OperatorReader:
    def read(reader: LayerReader, call: Call) -> None:
        _clamp(reader, call, lower, upper)

    return read


def _hardtanh(reader: LayerReader, call: Call) -> None:
    _clamp(reader, call, call.get("min_val", 1, -1.0), call.get("max_val", 2, 1.0))


def _clamp_function(reader: LayerReader, call: Call) -> None:
    _clamp(reader, call, call.get("min", 1), call.get("max", 2))


def _clamp(reader: LayerReader, call: Call, lower: Any, upper: Any) -> None:
    for bound in (lower, upper):
        if bound is not None and not isinstance(bound, int | float):
            refuse(call.node, f"the bound {bound!r} is no number")
    reader.add_moving(call, "clamp", reader.value(call.source), lower=lower, upper=upper)


# --- operators that pool -------------------------------------------------------------------------


def _max_pool(reader: LayerReader, call: Call) -> None:
    if call.get("return_indices", 6, False) or call.get("ceil_mode", 5, False):
        refuse(call.node, "indices and ceil_mode are not written")
    if _pair(call.get("dilation", 4, 1)) != (1, 1):
        refuse(call.node, "a dilated pool is not written")
    reader.add_moving(call, "max_pool", reader.value(call.source), **_window(call))


def _average_pool(reader: LayerReader, call: Call) -> None:
    if call.get("divisor_override", 6) is not None or call.get("ceil_mode", 4, False):
        refuse(call.node, "a divisor of its own and ceil_mode are not written")
    window = _window(call)
    counted = bool(call.get("count_include_pad", 5, True))
    if window["padding"] != (0, 0) and not counted:
        refuse(call.node, "an average that leaves its padding out is not written")
    reader.add_moving(call, "average_pool", reader.value(call.source), **window)


def _window(call: Call) -> dict[str, tuple[int, int]]:
    kernel = _pair(call.get("kernel_size", 1))
    stride = call.get("stride", 2)
    return {
        "kernel": kernel,
        "stride": _pair(stride) if stride not in (None, (), []) else kernel,
        "padding": _pair(call.get("padding", 3, 0)),
    }


def _adaptive_average_pool(reader: LayerReader, call: Call) -> None:
    source, target = reader.value(call.source), reader.facts.value(call.node).shape[-2:]
    if target == (1, 1):
        reader.add_moving(call, "mean", source, keep=True)
        return
    sides = list(zip(source.shape[-2:], target, strict=True))
    if any(s % t for s, t in sides):
        refuse(call.node, f"{source.shape[-2:]} does not divide into {target} equal windows")
    kernel = tuple(s // t for s, t in sides)
    reader.add_moving(call, "average_pool", source, kernel=kernel, stride=kernel, padding=(0, 0))


def _mean(reader: LayerReader, call: Call) -> None:
    axes, source = call.get("dim", 1), reader.value(call.source)
    given = list(axes) if isinstance(axes, tuple | list) else [axes]
    rank = len(source.shape) + 1
    if rank != 4 or sorted(a % rank for a in given if isinstance(a, int)) != [2, 3]:
        refuse(call.node, f"a mean over the axes {given} is not written, only over height, width")
    reader.add_moving(call, "mean", source, keep=bool(call.get("keepdim", 2, False)))


# --- operators that move values ------------------------------------------------------------------


def _reshape(reader: LayerReader, call: Call) -> None:
    source, shape = reader.value(call.source), reader.facts.value(call.node).shape
    if shape == source.shape:
        reader.alias(call, source)
        return
    reader.add_moving(call, "reshape", source)


def _transpose(reader: LayerReader, call: Call) -> None:
    source = reader.value(call.source)
    rank = len(source.shape) + 1
    first, second = (call.get(f"dim{i}", i + 1) % rank for i in (0, 1))
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    _permuted(reader, call, source, order)


def _permute(reader: LayerReader, call: Call) -> None:
    dims: Any = call.node.args[1:] or (call.node.kwargs.get("dims"),)
    given = dims[0] if isinstance(dims[0], tuple | list) else dims
    source = reader.value(call.source)
    _permuted(reader, call, source, [int(axis) % (len(source.shape) + 1) for axis in given])


def _permuted(reader: LayerReader, call: Call, source: Value, order: list[int]) -> None:
    if order[0] != 0:
        refuse(call.node, "it moves the batch axis")
    reader.add_moving(call, "permute", source, order=tuple(order))


def _item(reader: LayerReader, call: Call) -> None:
    """Read one part of a divided tensor as a slice; the sizes are those that torch computed."""
    divided, index = call.source, call.node.args[1]
    parts = reader.facts.raw(divided)
    if not isinstance(parts, tuple | list) or not isinstance(index, int):
        refuse(call.node, "only a part of a chunked or split tensor is written")
    whole = reader.facts.call(divided)
    source = reader.value(whole.source)
    axis = whole.get("dim", 2, 0) % (len(source.shape) + 1)
    if axis == 0:
        refuse(call.node, "it divides the batch")
    sizes = [int(part.shape[axis]) for part in parts]
    start = sum(sizes[: index % len(sizes)])
    end = start + sizes[index]
    reader.add_moving(call, "slice", source, axis=axis, start=start, end=end, step=1)


def _divide(reader: LayerReader, call: Call) -> None:
    """Leave chunk and split to the parts that are taken of them."""


def _concatenate(reader: LayerReader, call: Call) -> None:
    parts = call.get("tensors", 0)
    if not isinstance(parts, tuple | list):
        refuse(call.node, "its tensors are not listed one by one")
    rank = len(reader.facts.value(call.node).shape) + 1
    axis = call.get("dim", 1, 0) % rank
    if axis == 0:
        refuse(call.node, "it joins batches")
    reader.require_one_precision(call)
    reader.add(call, "concat", tuple(reader.value(part) for part in parts), axis=axis)


def _pair(value: Any) -> tuple[int, int]:
    given = tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(value),) * 2
    if len(given) == 1:
        given *= 2
    return given[0], given[1]


#: Reads one call.
OperatorReader = Callable[[LayerReader, Call], None]

_RECTIFYING_MODULES = (intrinsic.quantized.ConvReLU2d, intrinsic.quantized.LinearReLU)
_RECTIFYING = (torch.ops.quantized.conv2d_relu, torch.ops.quantized.linear_relu)
_RESHAPING = (
    *(nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze),
    *("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze"),
)
_UNCHANGING = (nn.Identity, torch.clone, "contiguous", "clone", "detach", "dequantize")
_DROPOUT = (nn.Dropout, nn.Dropout2d, quantized.Dropout, functional.dropout, STOCHASTIC_DEPTH)
_HARDSWISH = (
    *(nn.Hardswish, quantized.Hardswish, functional.hardswish),
    torch.ops.quantized.hardswish,
)
_SIGMOID = (nn.Sigmoid, quantized.Sigmoid, torch.sigmoid, functional.sigmoid, "sigmoid")
_LEAKY = (
    *(nn.LeakyReLU, quantized.LeakyReLU, functional.leaky_relu),
    torch.ops.quantized.leaky_relu,
)
_RELU = (nn.ReLU, functional.relu, torch.relu, "relu", "relu_")
_RELU6 = (nn.ReLU6, quantized.ReLU6, functional.relu6)

_READERS: dict[object, OperatorReader] = {
    **dict.fromkeys(
        (quantized.Conv2d, intrinsic.quantized.ConvReLU2d, torch.ops.quantized.conv2d),
        _quantized_convolution,
    ),
    torch.ops.quantized.conv2d_relu: _quantized_convolution,
    nn.Conv2d: _float_convolution,
    **dict.fromkeys(
        (quantized.Linear, intrinsic.quantized.LinearReLU, torch.ops.quantized.linear),
        _quantized_linear,
    ),
    torch.ops.quantized.linear_relu: _quantized_linear,
    nn.Linear: _float_linear,
    torch.quantize_per_tensor: _quantize,
    **dict.fromkeys(_UNCHANGING, _alias),
    torch.dequantize: _alias,
    **dict.fromkeys(_DROPOUT, _dropout),
    **dict.fromkeys(_HARDSWISH, _function("hardswish")),
    **dict.fromkeys((nn.Hardsigmoid, functional.hardsigmoid), _function("hardsigmoid")),
    **dict.fromkeys(_SIGMOID, _function("sigmoid")),
    **dict.fromkeys((nn.Tanh, torch.tanh, functional.tanh, "tanh"), _function("tanh")),
    **dict.fromkeys((nn.SiLU, functional.silu), _function("silu")),
    **dict.fromkeys(_LEAKY, _leaky_relu),
    **dict.fromkeys(_RELU, _clamp_to(0.0, None)),
    **dict.fromkeys(_RELU6, _clamp_to(0.0, 6.0)),
    **dict.fromkeys((nn.Hardtanh, functional.hardtanh), _hardtanh),
    **dict.fromkeys((torch.clamp, "clamp", "clamp_"), _clamp_function),
    **dict.fromkeys((torch.ops.quantized.add, torch.add, operator.add, "add"), _binary("add")),
    **dict.fromkeys((torch.ops.quantized.mul, torch.mul, operator.mul, "mul"), _binary("mul")),
    torch.ops.quantized.add_relu: _binary("add", relu=True),
    torch.ops.quantized.mul_relu: _binary("mul", relu=True),
    **dict.fromkeys((nn.MaxPool2d, functional.max_pool2d, torch.max_pool2d), _max_pool),
    **dict.fromkeys((nn.AvgPool2d, functional.avg_pool2d), _average_pool),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, functional.adaptive_avg_pool2d), _adaptive_average_pool),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys(_RESHAPING, _reshape),
    **dict.fromkeys((torch.transpose, "transpose"), _transpose),
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((torch.chunk, torch.split, "chunk", "split"), _divide),
    operator.getitem: _item,
    **dict.fromkeys((torch.cat, torch.concat, torch.ops.quantized.cat), _concatenate),
}
