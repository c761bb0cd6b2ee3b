"""An edge as a LiteRT file (``.tflite``), with the scales and zero points that FX calibrated.

Written layer by layer: activations int8 (FX's uint8 less 128), weights int8 with one scale for each
output channel, biases int32. The file takes and gives torch's order of axes and works channels last
inside. Nothing is calibrated a second time.

What LiteRT has no exact integer kernel for is computed in float32 between a DEQUANTIZE and a
QUANTIZE at FX's own grids: hard-swish (LiteRT's int8 kernel works with 16-bit fixed point), hard
sigmoid (no operator) and the other functions of one value. XNNPACK takes them, so the graph stays
one delegate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from export.layers import Grid, Layer, LayerGraph, Value
from export.tflite_graph import INT8_OFFSET, TensorRef, TfliteGraph
from export.xnnpack_add import add_form
from records import files
from records.errors import ExportError

Boundary = Literal["float", "wire"]
Layout = Literal["torch", "channels-last"]

_TO_LAST, _TO_TORCH = (0, 2, 3, 1), (0, 3, 1, 2)
_RELU, _RELU6 = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6
#: XNNPACK's depthwise kernels for larger windows than 5 × 5 are slow; there ties are rare.
_MOST_TAPS = 25
_SAME, _VALID = schema.Padding.SAME, schema.Padding.VALID


def write_tflite(layers: LayerGraph, path: Path, *, boundary: Boundary) -> None:
    """Write an edge as ``.tflite``; the same layers give the same bytes.

    Args:
        layers: of `export.layer_reader.read_layers`, quantized or FP32.
        path: the new file.
        boundary: ``float`` ends with a DEQUANTIZE, or as the FP32 edge ends; ``wire`` with the
            uint8 tensor that is really sent. Input and output are named ``input`` and ``boundary``.

    Raises:
        ExportError: a layer cannot be written; names it.
        OverwriteError: the file exists.
    """
    files.write_bytes(path, tflite_bytes(layers, boundary=boundary))


def tflite_bytes(layers: LayerGraph, *, boundary: Boundary) -> bytes:
    """Return the bytes that `write_tflite` writes."""
    writer = _Writer()
    image = writer.graph.activation("input", layers.image.shape, None)
    writer.put(layers.image, "torch", image)
    for layer in layers.layers:
        _WRITERS[layer.kind](writer, layer)
    return writer.graph.serialize(image, _end(writer, layers.boundary, boundary))


def _end(writer: _Writer, value: Value, boundary: Boundary) -> TensorRef:
    last = writer.get(value, "torch")
    if value.grid is None:
        if boundary == "wire":
            raise ExportError("an FP32 edge has no wire")
        # A RESHAPE to its own shape: the name belongs to the output alone.
        return writer.reshape(last, value.shape, None, "boundary")
    if boundary == "float":
        output = writer.graph.activation("boundary", value.shape, None)
        return writer.graph.operate("DEQUANTIZE", [last], output, schema.DequantizeOptionsT())
    output = writer.graph.activation("boundary", value.shape, value.grid, dtype="uint8")
    return writer.graph.operate("QUANTIZE", [last], output, schema.QuantizeOptionsT())


class _Writer:
    """Maps each value to its tensors, one an order of axes, made when a layer asks for it."""

    def __init__(self) -> None:
        self.graph = TfliteGraph()
        self._made: dict[tuple[str, Layout], TensorRef] = {}

    def put(self, value: Value, layout: Layout, ref: TensorRef) -> None:
        self._made[value.name, layout] = ref

    def output(self, layer: Layer, layout: Layout) -> TensorRef:
        """Add the tensor of a layer's output."""
        value = layer.output
        ref = self.graph.activation(value.name, _ordered(value.shape, layout), value.grid)
        self.put(value, layout, ref)
        return ref

    def layout(self, *values: Value | float) -> Layout:
        """Return the order of axes in which a layer on each value should work."""
        tensors = [v for v in values if isinstance(v, Value)]
        images = all(len(v.shape) == 3 for v in tensors)
        if images and any((v.name, "channels-last") in self._made for v in tensors):
            return "channels-last"
        return "torch"

    def get(self, value: Value, layout: Layout) -> TensorRef:
        """Return a value's tensor in an order of axes."""
        if len(value.shape) != 3:
            layout = "torch"
        if (value.name, layout) not in self._made:
            other: Layout = "torch" if layout == "channels-last" else "channels-last"
            self.put(value, layout, self._turned(value, self._made[value.name, other], layout))
        return self._made[value.name, layout]

    def _turned(self, value: Value, source: TensorRef, layout: Layout) -> TensorRef:
        shape = _ordered(value.shape, layout)
        name = f"{value.name}_{layout.replace('-', '_')}"
        if value.shape[1:] == (1, 1) or value.shape[0] == 1:
            return self.reshape(source, shape, value.grid, name)
        order = _TO_LAST if layout == "channels-last" else _TO_TORCH
        return self.transpose(source, shape, value.grid, name, order)

    def transpose(
        self,
        source: TensorRef,
        shape: tuple[int, ...],
        grid: Grid | None,
        name: str,
        order: tuple[int, ...],
    ) -> TensorRef:
        permutation = self.graph.constant(f"{name}_order", np.asarray(order, np.int32))
        output = self.graph.activation(name, shape, grid)
        options = schema.TransposeOptionsT()
        return self.graph.operate("TRANSPOSE", [source, permutation], output, options)

    def reshape(
        self, source: TensorRef, shape: tuple[int, ...], grid: Grid | None, name: str
    ) -> TensorRef:
        sizes = np.asarray((-1, *shape), np.int32)
        stored = self.graph.constant(f"{name}_shape", sizes)
        output = self.graph.activation(name, shape, grid)
        options = schema.ReshapeOptionsT(newShape=sizes)
        return self.graph.operate("RESHAPE", [source, stored], output, options)

    def real(self, ref: TensorRef, name: str) -> TensorRef:
        """Return a tensor in float32, behind a DEQUANTIZE if it has a grid."""
        if ref.grid is None:
            return ref
        output = self.graph.activation(f"{name}_real", ref.shape[1:], None)
        return self.graph.operate("DEQUANTIZE", [ref], output, schema.DequantizeOptionsT())

    def float_operator(
        self, kind: str, inputs: list[TensorRef], name: str, options: Any = None
    ) -> TensorRef:
        """Add an operator on float32 tensors on the way to a layer's output."""
        output = self.graph.activation(name, inputs[0].shape[1:], None)
        return self.graph.operate(kind, inputs, output, options)

    def number(self, name: str, value: float, grid: Grid | None) -> TensorRef:
        """Store a number, as float32, or as the nearest int8 step of ``grid``."""
        if grid is None:
            return self.graph.constant(name, np.asarray([value], np.float32))
        step = np.asarray([grid.step_of(value) - INT8_OFFSET], np.int8)
        point = grid.zero_point - INT8_OFFSET
        return self.graph.constant(name, step, scales=np.asarray([grid.scale]), zero_point=point)


def _ordered(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    if layout == "channels-last" and len(shape) == 3:
        return (shape[1], shape[2], shape[0])
    return shape


def _quantize(writer: _Writer, layer: Layer) -> None:
    """QUANTIZE of floats; from another grid by way of them.

    XNNPACK's int8 to int8 kernel has a fixed-point multiplier: 1.4 % of the values one step off.
    """
    layout = writer.layout(layer.source)
    source = writer.real(writer.get(layer.source, layout), layer.output.name)
    output = writer.output(layer, layout)
    writer.graph.operate("QUANTIZE", [source], output, schema.QuantizeOptionsT())


def _convolution(writer: _Writer, layer: Layer) -> None:
    """CONV_2D or DEPTHWISE_CONV_2D; padding that is not SAME is a PAD with the zero point."""
    if layer.weights is None:
        raise ExportError(f"{layer.operator} has no weights")
    settings, (channels, inputs, *kernel) = layer.settings, layer.weights.values.shape
    depthwise = settings["groups"] > 1 and inputs == 1
    source, padding = _padded(writer, layer, kernel)
    common = {
        "padding": padding,
        "strideH": settings["stride"][0],
        "strideW": settings["stride"][1],
        "dilationHFactor": settings["dilation"][0],
        "dilationWFactor": settings["dilation"][1],
        "fusedActivationFunction": _RELU if layer.relu else 0,
    }
    output = writer.output(layer, "channels-last")
    if depthwise:
        multiplier = channels // settings["groups"]
        options = schema.DepthwiseConv2DOptionsT(depthMultiplier=multiplier, **common)
        weights = _stored_weights(writer, layer, (1, 2, 3, 0), axis=3)
        writer.graph.operate("DEPTHWISE_CONV_2D", [source, *weights], output, options)
    else:
        weights = _stored_weights(writer, layer, (0, 2, 3, 1), axis=0)
        options = schema.Conv2DOptionsT(**common)
        writer.graph.operate("CONV_2D", [source, *weights], output, options)


def _padded(writer: _Writer, layer: Layer, kernel: list[int]) -> tuple[TensorRef, int]:
    """Return a convolution's input, padded if neither VALID nor SAME does it, and the padding."""
    source, settings = layer.source, layer.settings
    ref = writer.get(source, "channels-last")
    pads = settings["padding"]
    if pads == (0, 0):
        return ref, _VALID
    reach = [d * (k - 1) for d, k in zip(settings["dilation"], kernel, strict=True)]
    same = all(
        _same_padding(size, out, stride, r) == (pad, pad)
        for size, out, stride, r, pad in zip(
            source.shape[1:],
            layer.output.shape[1:],
            settings["stride"],
            reach,
            pads,
            strict=True,
        )
    )
    if same:
        return ref, _SAME
    return _pad(writer, layer, ref), _VALID


def _same_padding(size: int, out: int, stride: int, reach: int) -> tuple[int, int]:
    """Return what TensorFlow's SAME pads before and after: the odd one out comes after."""
    if out != -(-size // stride):
        return (-1, -1)
    total = max((out - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


def _pad(
    writer: _Writer, layer: Layer, ref: TensorRef, least: npt.NDArray[Any] | None = None
) -> TensorRef:
    """Pad height and width with the real 0, or with the stored value ``least``."""
    high, wide = layer.settings["padding"]
    pads = np.asarray([(0, 0), (high, high), (wide, wide), (0, 0)], np.int32)
    stored = writer.graph.constant(f"{layer.output.name}_pads", pads)
    _, height, width, channels = ref.shape
    shape = (height + 2 * high, width + 2 * wide, channels)
    output = writer.graph.activation(f"{layer.output.name}_padded", shape, ref.grid)
    if least is None:
        return writer.graph.operate("PAD", [ref, stored], output, schema.PadOptionsT())
    scales, point = None, 0
    if ref.grid is not None:
        scales, point = np.asarray([ref.grid.scale]), ref.grid.zero_point - INT8_OFFSET
    name = f"{layer.output.name}_least"
    value = writer.graph.constant(name, least, scales=scales, zero_point=point)
    return writer.graph.operate("PADV2", [ref, stored, value], output, schema.PadV2OptionsT())


def _stored_weights(
    writer: _Writer, layer: Layer, order: tuple[int, ...], *, axis: int
) -> list[TensorRef]:
    weights, name, grid = layer.weights, layer.output.name, layer.source.grid
    if weights is None:
        raise ExportError(f"{layer.operator} has no weights")
    values = np.ascontiguousarray(weights.values.transpose(order))
    units = None
    if weights.scales is not None and grid is not None:
        units = weights.scales * np.float32(grid.scale)
    return [
        writer.graph.constant(f"{name}_weight", values, scales=weights.scales, axis=axis),
        writer.graph.constant(f"{name}_bias", weights.bias, scales=units),
    ]


def _linear(writer: _Writer, layer: Layer) -> None:
    weights = _stored_weights(writer, layer, (0, 1), axis=0)
    source = writer.get(layer.source, "torch")
    options = schema.FullyConnectedOptionsT(
        fusedActivationFunction=_RELU if layer.relu else 0,
        keepNumDims=len(layer.output.shape) > 1,
    )
    output = writer.output(layer, "torch")
    writer.graph.operate("FULLY_CONNECTED", [source, *weights], output, options)


def _binary(kind: str, options_of: Callable[..., Any]) -> LayerWriter:
    def write(writer: _Writer, layer: Layer) -> None:
        layout = writer.layout(*layer.inputs)
        inputs = [
            writer.get(value, layout)
            if isinstance(value, Value)
            else writer.number(f"{layer.output.name}_number", value, None)
            for value in layer.inputs
        ]
        if layer.output.grid is not None and not all(isinstance(v, Value) for v in layer.inputs):
            raise ExportError(f"{layer.operator}: a number beside a quantized tensor")
        options = options_of(fusedActivationFunction=_RELU if layer.relu else 0)
        writer.graph.operate(kind, inputs, writer.output(layer, layout), options)

    return write


def _add(writer: _Writer, layer: Layer) -> None:
    """ADD of integers, or of floats between DEQUANTIZE and QUANTIZE where those give FX's own."""
    form = add_form(layer)
    if form.integer:
        _integer_add(writer, layer)
        return
    name, layout = layer.output.name, writer.layout(*layer.inputs)
    values = [value for value in layer.inputs if isinstance(value, Value)]
    reals = []
    for place, (value, factor) in enumerate(zip(values, form.factors, strict=True)):
        real = writer.real(writer.get(value, layout), f"{name}_{place}")
        if factor != 1:
            inputs = [real, writer.number(f"{name}_factor_{place}", factor, None)]
            real = writer.float_operator(
                "MUL", inputs, f"{name}_scaled_{place}", schema.MulOptionsT()
            )
        reals.append(real)
    options = schema.AddOptionsT(fusedActivationFunction=_RELU if layer.relu else 0)
    total = writer.float_operator("ADD", reals, f"{name}_sum", options)
    writer.graph.operate(
        "QUANTIZE", [total], writer.output(layer, layout), schema.QuantizeOptionsT()
    )


def _clamp(writer: _Writer, layer: Layer) -> None:
    """MAXIMUM and MINIMUM with stored bounds, on the stored integers where there are any."""
    layout, grid = writer.layout(layer.source), layer.source.grid
    bounds = [("MAXIMUM", layer.settings["lower"]), ("MINIMUM", layer.settings["upper"])]
    given = [(kind, bound) for kind, bound in bounds if bound is not None]
    ref = writer.get(layer.source, layout)
    relu = {(0.0, None): "RELU", (0.0, 6.0): "RELU6"}.get(
        (layer.settings["lower"], layer.settings["upper"])
    )
    if relu is not None:
        writer.graph.operate(relu, [ref], writer.output(layer, layout))
        return
    for place, (kind, bound) in enumerate(given):
        stored = writer.number(f"{layer.output.name}_{kind.lower()}", bound, grid)
        last = place == len(given) - 1
        output = (
            writer.output(layer, layout)
            if last
            else writer.graph.activation(f"{layer.output.name}_low", ref.shape[1:], grid)
        )
        options = schema.MaximumMinimumOptionsT()
        ref = writer.graph.operate(kind, [ref, stored], output, options)


def _function(write_float: Callable[[_Writer, Layer, TensorRef], TensorRef]) -> LayerWriter:
    """A function of one value in float32, between the grids of its input and output."""

    def write(writer: _Writer, layer: Layer) -> None:
        layout = writer.layout(layer.source)
        source = writer.real(writer.get(layer.source, layout), layer.output.name)
        result = write_float(writer, layer, source)
        if layer.output.grid is None:
            writer.put(layer.output, layout, result)
            return
        output = writer.output(layer, layout)
        writer.graph.operate("QUANTIZE", [result], output, schema.QuantizeOptionsT())

    return write


def _named(kind: str, options: Callable[[], Any] | None = None) -> LayerWriter:
    def write_float(writer: _Writer, layer: Layer, source: TensorRef) -> TensorRef:
        given = None if options is None else options()
        return writer.float_operator(kind, [source], f"{layer.output.name}_function", given)

    return _function(write_float)


def _hardsigmoid_of_float(writer: _Writer, layer: Layer, source: TensorRef) -> TensorRef:
    """Write relu6(x + 3) / 6: LiteRT has no hard sigmoid."""
    name = layer.output.name
    three, sixth = (
        writer.number(f"{name}_{kind}", value, None)
        for kind, value in (("three", 3.0), ("sixth", 1 / 6))
    )
    add = schema.AddOptionsT(fusedActivationFunction=_RELU6)
    clipped = writer.float_operator("ADD", [source, three], f"{name}_clipped", add)
    mul = schema.MulOptionsT()
    return writer.float_operator("MUL", [clipped, sixth], f"{name}_function", mul)


def _silu_of_float(writer: _Writer, layer: Layer, source: TensorRef) -> TensorRef:
    name = layer.output.name
    gate = writer.float_operator("LOGISTIC", [source], f"{name}_gate")
    return writer.float_operator("MUL", [source, gate], f"{name}_function", schema.MulOptionsT())


def _leaky_of_float(writer: _Writer, layer: Layer, source: TensorRef) -> TensorRef:
    options = schema.LeakyReluOptionsT(alpha=layer.settings["slope"])
    name = f"{layer.output.name}_function"
    return writer.float_operator("LEAKY_RELU", [source], name, options)


def _mean(writer: _Writer, layer: Layer) -> None:
    """MEAN over height and width; a convolution with ones where MEAN rounds otherwise than FX.

    XNNPACK's MEAN rounds the mean of ``q`` half to even, QNNPACK that of ``q − zero_point``: they
    differ at ties, which an odd count cannot have, when the zero point is odd.
    """
    sides, grid, keep = layer.source.shape[1:], layer.source.grid, layer.settings["keep"]
    count = sides[0] * sides[1]
    if grid is not None and count % 2 == 0 and grid.zero_point % 2 and count <= _MOST_TAPS:
        pooled = _windowed_average(writer, layer, writer.get(layer.source, "channels-last"), sides)
        if keep:
            writer.put(layer.output, "channels-last", pooled)
        else:
            flat = writer.reshape(pooled, layer.output.shape, grid, layer.output.name)
            writer.put(layer.output, "torch", flat)
        return
    source = writer.get(layer.source, "channels-last")
    axes = writer.graph.constant(f"{layer.output.name}_axes", np.asarray([1, 2], np.int32))
    output = writer.output(layer, "channels-last" if keep else "torch")
    writer.graph.operate("MEAN", [source, axes], output, schema.ReducerOptionsT(keepDims=keep))


def _windowed_average(
    writer: _Writer,
    layer: Layer,
    source: TensorRef,
    kernel: tuple[int, ...],
    stride: tuple[int, int] = (1, 1),
) -> TensorRef:
    """Average windows as QNNPACK does, by DEPTHWISE_CONV_2D with weights 1 at the scale 1 / count.

    The sum of ``q − zero_point`` is exact, and what the scales leave of it is 1 / count.
    """
    name, channels = layer.output.name, layer.source.shape[0]
    ones = np.ones((1, *kernel, channels), np.int8)
    share = np.full(channels, 1 / (kernel[0] * kernel[1]), np.float32)
    grid = layer.source.grid
    if grid is None:
        raise ExportError(f"{layer.operator} averages floats")
    zeros = np.zeros(channels, np.int32)
    units = share * np.float32(grid.scale)
    weights = [
        writer.graph.constant(f"{name}_weight", ones, scales=share, axis=3),
        writer.graph.constant(f"{name}_bias", zeros, scales=units),
    ]
    options = schema.DepthwiseConv2DOptionsT(
        padding=_VALID, depthMultiplier=1, strideH=stride[0], strideW=stride[1]
    )
    sides = [
        (size - k) // s + 1 for size, k, s in zip(source.shape[1:3], kernel, stride, strict=True)
    ]
    output = writer.graph.activation(f"{name}_average", (*sides, channels), grid)
    return writer.graph.operate("DEPTHWISE_CONV_2D", [source, *weights], output, options)


def _average_pool(writer: _Writer, layer: Layer) -> None:
    """The same convolution with ones for integers, AVERAGE_POOL_2D for floats."""
    settings, source = layer.settings, writer.get(layer.source, "channels-last")
    if settings["padding"] != (0, 0):
        source = _pad(writer, layer, source)
    if layer.source.grid is not None:
        kernel, stride = settings["kernel"], settings["stride"]
        pooled = _windowed_average(writer, layer, source, kernel, stride)
        writer.put(layer.output, "channels-last", pooled)
        return
    output = writer.output(layer, "channels-last")
    writer.graph.operate("AVERAGE_POOL_2D", [source], output, _pool_options(layer))


def _max_pool(writer: _Writer, layer: Layer) -> None:
    source, grid = writer.get(layer.source, "channels-last"), layer.source.grid
    if layer.settings["padding"] != (0, 0):
        # The zero point is the least integer only where it is 0: else pad with the least itself.
        least = None
        if grid is None:
            least = np.asarray([np.finfo(np.float32).min], np.float32)
        elif grid.zero_point != 0:
            least = np.asarray([-INT8_OFFSET], np.int8)
        source = _pad(writer, layer, source, least)
    output = writer.output(layer, "channels-last")
    writer.graph.operate("MAX_POOL_2D", [source], output, _pool_options(layer))


def _pool_options(layer: Layer) -> Any:
    kernel, stride = layer.settings["kernel"], layer.settings["stride"]
    return schema.Pool2DOptionsT(
        padding=_VALID,
        strideH=stride[0],
        strideW=stride[1],
        filterHeight=kernel[0],
        filterWidth=kernel[1],
    )


def _reshape(writer: _Writer, layer: Layer) -> None:
    source, value = writer.get(layer.source, "torch"), layer.output
    writer.put(value, "torch", writer.reshape(source, value.shape, value.grid, value.name))


def _permute(writer: _Writer, layer: Layer) -> None:
    source, value, order = writer.get(layer.source, "torch"), layer.output, layer.settings["order"]
    ref = writer.transpose(source, value.shape, value.grid, value.name, order)
    writer.put(value, "torch", ref)


def _slice(writer: _Writer, layer: Layer) -> None:
    layout, settings = writer.layout(layer.source), layer.settings
    source = writer.get(layer.source, layout)
    axis, rank = _axis(settings["axis"], layout), len(source.shape)
    begin, end = np.zeros(rank, np.int32), np.zeros(rank, np.int32)
    begin[axis], end[axis] = settings["start"], settings["end"]
    name = layer.output.name
    stored = [
        writer.graph.constant(f"{name}_{word}", array)
        for word, array in (("begin", begin), ("end", end), ("step", np.ones(rank, np.int32)))
    ]
    whole = ((1 << rank) - 1) & ~(1 << axis)
    options = schema.StridedSliceOptionsT(beginMask=whole, endMask=whole)
    output = writer.output(layer, layout)
    writer.graph.operate("STRIDED_SLICE", [source, *stored], output, options)


def _concat(writer: _Writer, layer: Layer) -> None:
    layout = writer.layout(*layer.inputs)
    inputs = [writer.get(value, layout) for value in layer.inputs if isinstance(value, Value)]
    grid = layer.output.grid
    if any(ref.grid != grid for ref in inputs):
        inputs = [
            _on_grid(writer, ref, grid, f"{layer.output.name}_{n}") for n, ref in enumerate(inputs)
        ]
    options = schema.ConcatenationOptionsT(axis=_axis(layer.settings["axis"], layout))
    writer.graph.operate("CONCATENATION", inputs, writer.output(layer, layout), options)


def _on_grid(writer: _Writer, ref: TensorRef, grid: Grid | None, name: str) -> TensorRef:
    """Return a tensor on another grid: LiteRT joins integers of one grid only."""
    if ref.grid == grid:
        return ref
    real, output = writer.real(ref, name), writer.graph.activation(name, ref.shape[1:], grid)
    return writer.graph.operate("QUANTIZE", [real], output, schema.QuantizeOptionsT())


def _axis(axis: int, layout: Layout) -> int:
    return {0: 0, 1: 3, 2: 1, 3: 2}[axis] if layout == "channels-last" else axis


#: Writes one layer.
LayerWriter = Callable[[_Writer, Layer], None]

_integer_add = _binary("ADD", schema.AddOptionsT)

_WRITERS: dict[str, LayerWriter] = {
    "quantize": _quantize,
    "convolution": _convolution,
    "linear": _linear,
    "add": _add,
    "mul": _binary("MUL", schema.MulOptionsT),
    "clamp": _clamp,
    "hardswish": _named("HARD_SWISH", schema.HardSwishOptionsT),
    "hardsigmoid": _function(_hardsigmoid_of_float),
    "sigmoid": _named("LOGISTIC"),
    "tanh": _named("TANH"),
    "silu": _function(_silu_of_float),
    "leaky_relu": _function(_leaky_of_float),
    "mean": _mean,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "reshape": _reshape,
    "permute": _permute,
    "slice": _slice,
    "concat": _concat,
}
