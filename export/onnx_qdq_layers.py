"""QDQ ONNX of the operators with weights: convolutions, linear layers, normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.ao.nn import intrinsic, quantized

from export.onnx_qdq_image import (
    is_paired,
    paired_margins,
    paired_weights,
    reads_image,
    stacked_rows,
    unpaired,
)
from export.onnx_qdq_pointwise import put_rectified
from export.onnx_qdq_shapes import flatten_pixel, reshaped
from export.onnx_qdq_writer import Call, OperatorWriter, QdqWriter, refuse

#: Inputs of an output channel up to which uint8 weights are cheaper.
_FEW_INPUTS = 24
#: The zero point of weights that are stored as uint8.
_MIDDLE = 128


def _convolution(writer: QdqWriter, call: Call) -> None:
    """Quantized convolution: DQ(x), DQ(int8 w), DQ(int32 b) → Conv → Q."""
    packed = _packed(writer, call)
    if call.get("padding_mode", None, "zeros") not in (None, "zeros"):
        refuse(call.node, "only zero padding is written")
    if reads_image(call, packed):
        _image_convolution(writer, call, packed)
        return
    weight, bias = packed.unpack()
    groups = int(packed.groups())
    inputs = [writer.real(call.source), *_weights(writer, call, weight, bias, groups=groups)]
    attributes = _geometry(packed.stride(), packed.padding(), packed.dilation(), groups)
    attributes["kernel_shape"] = list(weight.shape[2:])
    put_rectified(writer, call, writer.inner(call, "Conv", inputs, **attributes), _has_relu(call))


def _image_convolution(writer: QdqWriter, call: Call, packed: Any) -> None:
    """One row of the kernel, over rows that are stacked; see ``export.onnx_qdq_image``."""
    weight, bias = packed.unpack()
    outputs, channels, height, width = weight.shape
    integers = _array(weight.int_repr(), np.int8).reshape(outputs, channels * height, 1, width)
    stride, margins = packed.stride()[1], (packed.padding()[1],) * 2
    paired = is_paired(writer, call, packed)
    if paired:
        integers, margins = paired_weights(integers, stride), paired_margins(writer, call, packed)
    inputs = [
        stacked_rows(writer, call, packed),
        *_weights(writer, call, weight, bias, integers, groups=1),
    ]
    attributes = {
        "kernel_shape": list(integers.shape[2:]),
        "strides": [1, stride * (1 + paired)],
        "pads": [0, margins[0], 0, margins[1]],
        "dilations": [1, int(packed.dilation()[1])],
    }
    put_rectified(writer, call, writer.inner(call, "Conv", inputs, **attributes), _has_relu(call))
    if paired:
        writer.put_stored(call.node, unpaired(writer, call.node, writer.stored(call.node)))


def _transposed_convolution(writer: QdqWriter, call: Call) -> None:
    packed = _packed(writer, call)
    weight, bias = packed.unpack()
    if weight.qscheme() != torch.per_tensor_affine:
        refuse(call.node, "a transposed convolution needs one scale for its whole weight")
    inputs = [writer.real(call.source), *_weights(writer, call, weight, bias)]
    attributes = _geometry(packed.stride(), packed.padding(), packed.dilation(), packed.groups())
    attributes["kernel_shape"] = list(weight.shape[2:])
    attributes["output_padding"] = list(packed.output_padding())
    writer.operate(call, "ConvTranspose", inputs, **attributes)


def _float_convolution(writer: QdqWriter, call: Call) -> None:
    module = call.module
    if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros":
        refuse(call.node, "only zero padding is written")
    if isinstance(module.padding, str):
        refuse(call.node, f"padding {module.padding!r} by name is not written")
    inputs = [writer.real(call.source), *_float_weights(writer, call, module.weight, module.bias)]
    attributes = _geometry(module.stride, module.padding, module.dilation, module.groups)
    attributes["kernel_shape"] = list(module.kernel_size)
    writer.operate(call, "Conv", inputs, **attributes)


def _linear(writer: QdqWriter, call: Call) -> None:
    """Quantized linear layer: a convolution of one pixel; MatMul and Add for more axes.

    ONNX Runtime's integer Gemm takes an eighth more instructions than its convolution does.
    """
    if call.module is not None:
        weight, bias = call.get("weight")(), call.get("bias")()
    else:
        weight, bias = torch.ops.quantized.linear_unpack(writer.value(_node(call, 1)))
    node = call.node
    if len(writer.shape(call.source)) > 1:
        names = _weights(writer, call, weight, bias)
        put_rectified(writer, call, _product(writer, call, names), _has_relu(call))
        return
    integers = _array(weight.int_repr(), np.int8).reshape(*weight.shape, 1, 1)
    names = _weights(writer, call, weight, bias, integers)
    pixel = writer.inner(call, "Conv", [_pixel(writer, call.source), *names], kernel_shape=[1, 1])
    put_rectified(writer, call, pixel, _has_relu(call))
    flatten_pixel(writer, node)


def _pixel(writer: QdqWriter, source: fx.Node) -> str:
    """Return (N, features, 1, 1), float32: what was flattened, if that is what it was."""
    shape = (*writer.shape(source), 1, 1)
    stored = writer.flattened(writer.stored(source), shape)
    if stored is None:
        stored = reshaped(writer, source, writer.stored(source), shape)
    return writer.graph.node("DequantizeLinear", [stored, *writer.parameters(source)])


def _float_linear(writer: QdqWriter, call: Call) -> None:
    names = _float_weights(writer, call, call.get("weight"), call.get("bias"))
    writer.put_real(call.node, _product(writer, call, names))


def _product(writer: QdqWriter, call: Call, weights: list[str]) -> str:
    source = writer.real(call.source)
    if len(writer.shape(call.source)) == 1:
        return writer.inner(call, "Gemm", [source, *weights], transB=1)
    turned = writer.inner(call, "Transpose", [weights[0]], perm=[1, 0])
    product = writer.inner(call, "MatMul", [source, turned])
    return writer.inner(call, "Add", [product, *weights[1:]]) if weights[1:] else product


def _batch_norm(writer: QdqWriter, call: Call) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    arrays = [call.get(name) for name in names]
    if call.module is None or any(array is None for array in arrays):
        refuse(call.node, "a batch normalization needs weight, bias, mean and variance")
    stored = [
        writer.graph.constant(f"{call.node.name}_{name}", _array(array))
        for name, array in zip(names, arrays, strict=True)
    ]
    inputs = [writer.real(call.source), *stored]
    result = writer.inner(call, "BatchNormalization", inputs, epsilon=float(call.get("eps")))
    put_rectified(writer, call, result, _has_relu(call))


def _layer_norm(writer: QdqWriter, call: Call) -> None:
    if call.module is None or call.get("weight") is None:
        refuse(call.node, "a layer normalization needs its own weight")
    weights = _float_weights(writer, call, call.get("weight"), call.get("bias"))
    axis = -len(call.get("normalized_shape"))
    inputs = [writer.real(call.source), *weights]
    epsilon = float(call.get("eps"))
    writer.operate(call, "LayerNormalization", inputs, axis=axis, epsilon=epsilon)


def _weights(
    writer: QdqWriter,
    call: Call,
    weight: Tensor,
    bias: Tensor | None,
    integers: npt.NDArray[np.int8] | None = None,
    *,
    groups: int | None = None,
) -> list[str]:
    """Store a weight as 8-bit and a bias as 32-bit integers behind DequantizeLinear nodes.

    ``integers``: those of the weight as they are written, which may repeat its output channels;
    None takes them as they are. ``groups``: of a convolution, whose weight may be uint8.
    """
    scales, per_channel = _weight_scales(call, weight)
    if integers is None:
        integers = _array(weight.int_repr(), np.int8)
    # Rounded before it is repeated: torch rounds other numbers of channels by another formula.
    rounded = None if bias is None else _rounded_bias(writer, call, bias, scales)
    times = len(integers) // len(weight)
    if per_channel:
        scales = scales.repeat(times)
    unsigned = groups is not None and _suits_uint8(integers, groups)
    names = [_dequantized_weight(writer, call, integers, scales, unsigned=unsigned)]
    if rounded is not None:
        names.append(_dequantized_bias(writer, call, np.tile(rounded, times), scales))
    return names


def _weight_scales(call: Call, weight: Tensor) -> tuple[Tensor, bool]:
    """Return a weight's scales, float64, and whether there is one for each output channel."""
    if weight.dtype != torch.qint8:
        refuse(call.node, f"its weight is {weight.dtype}, not qint8")
    if weight.qscheme() == torch.per_tensor_affine:
        scales = torch.tensor(weight.q_scale(), dtype=torch.float64)
        points = torch.tensor(weight.q_zero_point())
    elif weight.qscheme() == torch.per_channel_affine and weight.q_per_channel_axis() == 0:
        scales = weight.q_per_channel_scales().double()
        points = weight.q_per_channel_zero_points()
    else:
        refuse(call.node, f"its weight is {weight.qscheme()}, not per tensor or output channel")
    if bool((points != 0).any()):
        refuse(call.node, "its weight has a zero point other than 0")
    # Runtimes may flush anything smaller to zero.
    usable = torch.isfinite(scales) & (scales >= torch.finfo(torch.float32).tiny)
    if not bool(usable.all()):
        refuse(call.node, "a scale of its weight is no normal float32 number")
    return scales, weight.qscheme() == torch.per_channel_affine


def _dequantized_weight(
    writer: QdqWriter,
    call: Call,
    integers: npt.NDArray[np.int8],
    scales: Tensor,
    *,
    unsigned: bool,
) -> str:
    name = f"{call.node.name}_weight"
    kept: npt.NDArray[np.int8 | np.uint8] = integers
    if unsigned:
        kept = (integers.astype(np.int16) + _MIDDLE).astype(np.uint8)
    scale = writer.graph.constant(f"{name}_scale", _array(scales))
    points = np.full(tuple(scales.shape), _MIDDLE if unsigned else 0, kept.dtype)
    # ONNX Runtime makes none but int8 constants anew.
    if unsigned:
        stored = writer.graph.constant(f"{name}_uint8", kept)
        zero_point = writer.graph.constant("zeros", points)
    else:
        stored = writer.graph.own_constant(f"{name}_int8", kept)
        zero_point = writer.graph.own_constant("", points)
    axis: dict[str, Any] = {"axis": 0} if scales.dim() else {}
    return writer.graph.node("DequantizeLinear", [stored, scale, zero_point], **axis)


def _suits_uint8(integers: npt.NDArray[np.int8], groups: int) -> bool:
    """Whether a convolution's weight is stored as uint8 around 128; the products are equal.

    Without an 8-bit dot product, ONNX Runtime's ARM kernel of uint8 × int8 takes sixteen inputs of
    an output at a time, that of uint8 × uint8 four. Of few inputs the second is up to a tenth
    cheaper, of many the first; with a dot product they cost the same.
    """
    return groups == 1 and integers[0].size <= _FEW_INPUTS


def _rounded_bias(
    writer: QdqWriter, call: Call, bias: Tensor, scales: Tensor
) -> npt.NDArray[np.int32]:
    """Return a bias in units of input scale times weight scale, rounded as torch's QNNPACK does.

    Source: ``QuantizeBias`` in ATen/native/quantized/cpu/QuantUtils.h, PyTorch.
    """
    units = scales * writer.quantization(call.source)[0]
    floats = bias.detach().float()
    if scales.dim():
        zeros = torch.zeros(len(units), dtype=torch.int64)
        rounded = torch.quantize_per_channel(floats, units, zeros, 0, torch.qint32)
    else:
        rounded = torch.quantize_per_tensor(floats, float(units), 0, torch.qint32)
    return _array(rounded.int_repr(), np.int32)


def _dequantized_bias(
    writer: QdqWriter, call: Call, integers: npt.NDArray[np.int32], scales: Tensor
) -> str:
    stored = writer.graph.constant(f"{call.node.name}_bias_int32", integers)
    axis: dict[str, Any] = {"axis": 0} if scales.dim() else {}
    return writer.graph.node(
        "DequantizeLinear", [stored, _bias_scale(writer, call, scales)], **axis
    )


def _bias_scale(writer: QdqWriter, call: Call, scales: Tensor) -> str:
    """Return the units of a bias: a product of constants, which every runtime folds when it loads.

    Stored, they would be four bytes a channel. A product of two float32 numbers is exact in
    float64, so float32 multiplication rounds it as a cast would.
    """
    step = writer.quantization(call.source)[0]
    if not scales.dim() or not torch.equal(scales.float().double(), scales):
        return writer.graph.constant(f"{call.node.name}_bias_scale", _array(scales * step))
    stored = writer.graph.constant(f"{call.node.name}_weight_scale", _array(scales))
    return writer.graph.node("Mul", [stored, writer.parameters(call.source)[0]])


def _float_weights(writer: QdqWriter, call: Call, weight: Tensor, bias: Tensor | None) -> list[str]:
    named = {"weight": weight, "bias": bias}
    return [
        writer.graph.constant(f"{call.node.name}_{name}", _array(tensor))
        for name, tensor in named.items()
        if tensor is not None
    ]


def _packed(writer: QdqWriter, call: Call) -> Any:
    """Return the packed weights of a quantized convolution, from its module or its argument."""
    if call.module is not None:
        return call.get("_packed_params")
    return writer.value(_node(call, 1))


def _node(call: Call, position: int) -> Any:
    return call.node.args[position]


def _has_relu(call: Call) -> bool:
    return isinstance(call.module, _RECTIFYING_MODULES) or call.node.target in _RECTIFYING


def _geometry(stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    return {
        "strides": [int(s) for s in stride],
        "pads": [int(p) for p in padding] * 2,
        "dilations": [int(d) for d in dilation],
        "group": int(groups),
    }


def _array(tensor: Tensor, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    return np.asarray(tensor.detach().numpy(), dtype, order="C")


_RECTIFYING_MODULES = (
    intrinsic.quantized.ConvReLU2d,
    intrinsic.quantized.LinearReLU,
    intrinsic.quantized.BNReLU2d,
)
_RECTIFYING = (torch.ops.quantized.conv2d_relu, torch.ops.quantized.linear_relu)

LAYERS: dict[object, OperatorWriter] = {
    quantized.Conv2d: _convolution,
    intrinsic.quantized.ConvReLU2d: _convolution,
    torch.ops.quantized.conv2d: _convolution,
    torch.ops.quantized.conv2d_relu: _convolution,
    quantized.ConvTranspose2d: _transposed_convolution,
    nn.Conv2d: _float_convolution,
    quantized.Linear: _linear,
    intrinsic.quantized.LinearReLU: _linear,
    torch.ops.quantized.linear: _linear,
    torch.ops.quantized.linear_relu: _linear,
    nn.Linear: _float_linear,
    quantized.BatchNorm2d: _batch_norm,
    intrinsic.quantized.BNReLU2d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    quantized.LayerNorm: _layer_norm,
    nn.LayerNorm: _layer_norm,
}
