"""The modules of a converted edge as plain settings and tensors, and back.

Quantized layers are rebuilt on ``torch.ops.quantized``, the operators that the converted modules
call themselves, so loading needs no part of the deprecated ``torch.ao``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from records.errors import BundleError, ExportError

Settings = dict[str, Any]
Tensors = dict[str, Tensor]

#: No window, stride, channel count or axis of a real layer comes near this.
MAX_SETTING = 1 << 12

_AO = "torch.ao.nn.quantized.modules"
_AO_FUSED = "torch.ao.nn.intrinsic.quantized.modules"

#: Converted module → (kind in the file, whether a ReLU is fused).
_CONVERTED = {
    f"{_AO}.conv.Conv2d": ("quantized.conv2d", False),
    f"{_AO_FUSED}.conv_relu.ConvReLU2d": ("quantized.conv2d", True),
    f"{_AO}.linear.Linear": ("quantized.linear", False),
    f"{_AO_FUSED}.linear_relu.LinearReLU": ("quantized.linear", True),
    f"{_AO}.batchnorm.BatchNorm2d": ("quantized.batch_norm2d", False),
    f"{_AO_FUSED}.bn_relu.BNReLU2d": ("quantized.batch_norm2d", True),
    f"{_AO}.activation.Hardswish": ("quantized.hardswish", False),
    f"{_AO}.activation.LeakyReLU": ("quantized.leaky_relu", False),
    f"{_AO}.dropout.Dropout": ("Identity", False),
    # Left in float by name.
    "torch.nn.modules.conv.Conv2d": ("conv2d", False),
    "torch.nn.modules.linear.Linear": ("linear", False),
}

#: Modules of torch.nn without tensors: constructor arguments, each also an attribute.
_PLAIN: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "AvgPool2d": (
        nn.AvgPool2d,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "Dropout": (nn.Dropout, ("p", "inplace")),
    "Dropout2d": (nn.Dropout2d, ("p", "inplace")),
    "ELU": (nn.ELU, ("alpha", "inplace")),
    "Flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "GELU": (nn.GELU, ("approximate",)),
    "Hardsigmoid": (nn.Hardsigmoid, ("inplace",)),
    "Hardswish": (nn.Hardswish, ("inplace",)),
    "Hardtanh": (nn.Hardtanh, ("min_val", "max_val", "inplace")),
    "Identity": (nn.Identity, ()),
    "LeakyReLU": (nn.LeakyReLU, ("negative_slope", "inplace")),
    "MaxPool2d": (
        nn.MaxPool2d,
        ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"),
    ),
    "PixelShuffle": (nn.PixelShuffle, ("upscale_factor",)),
    "PixelUnshuffle": (nn.PixelUnshuffle, ("downscale_factor",)),
    "ReLU": (nn.ReLU, ("inplace",)),
    "ReLU6": (nn.ReLU6, ("inplace",)),
    "SiLU": (nn.SiLU, ("inplace",)),
    "Sigmoid": (nn.Sigmoid, ()),
    "Softmax": (nn.Softmax, ("dim",)),
    "Tanh": (nn.Tanh, ()),
}


@dataclass(frozen=True)
class PlainModule:
    """A module as plain data: ``settings`` holds scalars and tuples of them only."""

    kind: str
    settings: Settings
    tensors: Tensors


def dismantle(path: str, module: nn.Module) -> PlainModule:
    """Return a converted edge's module as settings and tensors.

    Args:
        path: the module's path, for the error.
        module: a quantized layer of a converted edge, or a module of torch.nn without tensors.

    Raises:
        ExportError: a kind that the format does not hold, or a non-finite tensor.
    """
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    if name in _CONVERTED:
        kind, relu = _CONVERTED[name]
        plain = _DISMANTLE[kind](path, module, relu)
    else:
        plain = _dismantle_plain(path, name, module)
    for key, tensor in plain.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ExportError(f"tensor {key!r} of module {path!r} holds NaN or infinite values")
    return plain


def assemble(path: str, plain: PlainModule) -> nn.Module:
    """Rebuild a module from untrusted settings and tensors; the engine must be qnnpack.

    Raises:
        BundleError: unknown kind, missing, superfluous or absurd settings or tensors.
    """
    try:
        return _assemble(plain)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise BundleError(f"module {path!r} of the graph file is not valid: {error}") from error


def _assemble(plain: PlainModule) -> nn.Module:
    _check_settings(plain.settings)
    if plain.kind in _PLAIN:
        kind, names = _PLAIN[plain.kind]
        _require_keys("settings", plain.settings, set(names))
        _require_keys("tensors", plain.tensors, set())
        return kind(**plain.settings)
    if plain.kind not in _ASSEMBLE:
        raise ValueError(f"kind {plain.kind!r} is unknown")
    return _ASSEMBLE[plain.kind](plain.settings, plain.tensors)


class QuantizedLayer(nn.Module):
    """A layer with packed weights: uint8 (N, …) quantized → the same, by one operator."""

    def __init__(
        self, operator: Callable[..., Tensor], packed: Any, scale: float, zero_point: int
    ) -> None:
        """Keep the operator and its arguments."""
        super().__init__()
        self.operator = operator
        self.packed = packed
        self.scale = scale
        self.zero_point = zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Map quint8 (N, C, …) to quint8 (N, …) at the layer's own scale."""
        return self.operator(x, self.packed, self.scale, self.zero_point)


class QuantizedActivation(nn.Module):
    """An activation with a scale of its own: quantized → quantized, by one operator."""

    def __init__(self, operator: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        """Keep the operator and what follows the input among its arguments."""
        super().__init__()
        self.operator = operator
        self.arguments = arguments

    def forward(self, x: Tensor) -> Tensor:
        """Map quint8 (N, C, …) to quint8 (N, …) at the layer's own scale."""
        return self.operator(x, *self.arguments)


class QuantizedBatchNorm(nn.Module):
    """BatchNorm that stands alone: quantized → quantized, by one operator."""

    def __init__(
        self, tensors: Tensors, epsilon: float, scale: float, zero_point: int, relu: bool
    ) -> None:
        """Keep weight, bias, mean and variance, each float32 of shape (channels,)."""
        super().__init__()
        self.statistics = tuple(tensors[key] for key in _BATCH_NORM_TENSORS)
        self.arguments = (epsilon, scale, zero_point)
        quantized = torch.ops.quantized
        self.operator = quantized.batch_norm2d_relu if relu else quantized.batch_norm2d

    def forward(self, x: Tensor) -> Tensor:
        """Map quint8 (N, C, …) to quint8 (N, …) at the layer's own scale."""
        result: Tensor = self.operator(x, *self.statistics, *self.arguments)
        return result


#: A zero here would divide by zero inside a kernel.
_POSITIVE = frozenset(
    {"kernel_size", "stride", "dilation", "output_size", "upscale_factor", "downscale_factor"}
)
_BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
_OUTPUT = {"scale", "zero_point"}
_WEIGHT = {"weight", "weight_scale", "weight_zero_point"}
_CONV = ("stride", "padding", "dilation", "groups")


def _dismantle_plain(path: str, name: str, module: nn.Module) -> PlainModule:
    kind = type(module).__name__
    if _PLAIN.get(kind, (None, ()))[0] is not type(module):
        raise ExportError(
            f"module {path!r} ({name}) cannot be written to a graph file; cut the network before it"
        )
    return PlainModule(kind, {key: getattr(module, key) for key in _PLAIN[kind][1]}, {})


def _output_of(module: Any) -> Settings:
    return {"scale": float(module.scale), "zero_point": int(module.zero_point)}


def _weights_of(module: Any) -> Tensors:
    weight, bias = module.weight(), module.bias()
    per_channel = weight.qscheme() in {torch.per_channel_affine, torch.per_channel_symmetric}
    if per_channel:
        scale, zero_point = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    else:
        scale = torch.tensor(weight.q_scale(), dtype=torch.float64)
        zero_point = torch.tensor(weight.q_zero_point(), dtype=torch.int64)
    tensors = {
        "weight": weight.int_repr().contiguous(),
        "weight_scale": scale.to(torch.float64),
        "weight_zero_point": zero_point.to(torch.int64),
    }
    return tensors if bias is None else tensors | {"bias": bias.detach()}


def _dismantle_conv(path: str, module: Any, relu: bool) -> PlainModule:
    if module.padding_mode != "zeros":
        raise ExportError(f"convolution {path!r} pads by {module.padding_mode!r}, not by zeros")
    settings = {key: getattr(module, key) for key in _CONV} | _output_of(module)
    tensors = _weights_of(module)
    return PlainModule(
        "quantized.conv2d", settings | {"relu": relu, "bias": "bias" in tensors}, tensors
    )


def _dismantle_linear(path: str, module: Any, relu: bool) -> PlainModule:
    tensors = _weights_of(module)
    settings = _output_of(module) | {"relu": relu, "bias": "bias" in tensors}
    return PlainModule("quantized.linear", settings, tensors)


def _dismantle_float_conv(path: str, module: Any, relu: bool) -> PlainModule:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ExportError(f"convolution {path!r} pads by {module.padding_mode!r}, not by zeros")
    settings = {key: getattr(module, key) for key in _CONV}
    return _with_float_weights("conv2d", settings, module)


def _dismantle_float_linear(path: str, module: Any, relu: bool) -> PlainModule:
    return _with_float_weights("linear", {}, module)


def _with_float_weights(kind: str, settings: Settings, module: Any) -> PlainModule:
    tensors = {"weight": module.weight.detach().contiguous()}
    if module.bias is not None:
        tensors["bias"] = module.bias.detach()
    return PlainModule(kind, settings | {"bias": "bias" in tensors}, tensors)


def _dismantle_batch_norm(path: str, module: Any, relu: bool) -> PlainModule:
    tensors = {key: getattr(module, key).detach() for key in _BATCH_NORM_TENSORS}
    settings = _output_of(module) | {"epsilon": module.eps, "relu": relu}
    return PlainModule("quantized.batch_norm2d", settings, tensors)


def _dismantle_hardswish(path: str, module: Any, relu: bool) -> PlainModule:
    return PlainModule("quantized.hardswish", _output_of(module), {})


def _dismantle_leaky_relu(path: str, module: Any, relu: bool) -> PlainModule:
    settings = _output_of(module) | {"negative_slope": module.negative_slope}
    return PlainModule("quantized.leaky_relu", settings, {})


def _dismantle_identity(path: str, module: Any, relu: bool) -> PlainModule:
    return PlainModule("Identity", {}, {})


_DISMANTLE: dict[str, Callable[[str, Any, bool], PlainModule]] = {
    "quantized.conv2d": _dismantle_conv,
    "quantized.linear": _dismantle_linear,
    "quantized.batch_norm2d": _dismantle_batch_norm,
    "quantized.hardswish": _dismantle_hardswish,
    "quantized.leaky_relu": _dismantle_leaky_relu,
    "Identity": _dismantle_identity,
    "conv2d": _dismantle_float_conv,
    "linear": _dismantle_float_linear,
}


def _assemble_conv(settings: Settings, tensors: Tensors) -> nn.Module:
    _require_keys("settings", settings, {*_CONV, *_OUTPUT, "relu", "bias"})
    weight, bias = _weight_and_bias(settings, tensors, 4)
    *pairs, groups = _geometry(settings, weight)
    quantized = torch.ops.quantized
    packed = quantized.conv2d_prepack(weight, bias, *pairs, groups)
    operator = quantized.conv2d_relu if _flag(settings["relu"]) else quantized.conv2d
    return QuantizedLayer(operator, packed, *_output(settings))


def _geometry(settings: Settings, weight: Tensor) -> tuple[Any, ...]:
    pairs = [
        _pair(settings[key], least)
        for key, least in (("stride", 1), ("padding", 0), ("dilation", 1))
    ]
    groups = _positive_int(settings["groups"])
    if weight.shape[0] % groups:
        raise ValueError(f"{weight.shape[0]} output channels do not divide into {groups} groups")
    return (*pairs, groups)


def _assemble_float_conv(settings: Settings, tensors: Tensors) -> nn.Module:
    _require_keys("settings", settings, {*_CONV, "bias"})
    weight, bias = _float_weight_and_bias(settings, tensors, 4)
    stride, padding, dilation, groups = _geometry(settings, weight)
    outputs, inputs, *kernel = weight.shape
    layer = nn.Conv2d(
        inputs * groups,
        outputs,
        (kernel[0], kernel[1]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
    )
    return _with_values(layer, weight, bias)


def _assemble_float_linear(settings: Settings, tensors: Tensors) -> nn.Module:
    _require_keys("settings", settings, {"bias"})
    weight, bias = _float_weight_and_bias(settings, tensors, 2)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _with_values(layer, weight, bias)


def _float_weight_and_bias(
    settings: Settings, tensors: Tensors, dimensions: int
) -> tuple[Tensor, Tensor | None]:
    keys = {"weight", "bias"} if _flag(settings["bias"]) else {"weight"}
    _require_keys("tensors", tensors, keys)
    weight, bias = tensors["weight"], tensors.get("bias")
    if weight.dim() != dimensions or weight.numel() == 0:
        raise ValueError(f"weight is no tensor of {dimensions} dimensions")
    _require_tensor("weight", weight, torch.float32, tuple(weight.shape))
    if bias is not None:
        _require_tensor("bias", bias, torch.float32, (weight.shape[0],))
    return weight, bias


def _with_values(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _assemble_linear(settings: Settings, tensors: Tensors) -> nn.Module:
    _require_keys("settings", settings, {*_OUTPUT, "relu", "bias"})
    quantized = torch.ops.quantized
    packed = quantized.linear_prepack(*_weight_and_bias(settings, tensors, 2))
    operator = quantized.linear_relu if _flag(settings["relu"]) else quantized.linear
    return QuantizedLayer(operator, packed, *_output(settings))


def _assemble_batch_norm(settings: Settings, tensors: Tensors) -> nn.Module:
    _require_keys("settings", settings, {*_OUTPUT, "relu", "epsilon"})
    _require_keys("tensors", tensors, set(_BATCH_NORM_TENSORS))
    for key in _BATCH_NORM_TENSORS:
        _require_tensor(key, tensors[key], torch.float32, tuple(tensors["weight"].shape))
    epsilon = _positive_float(settings["epsilon"])
    return QuantizedBatchNorm(tensors, epsilon, *_output(settings), _flag(settings["relu"]))


def _assemble_hardswish(settings: Settings, tensors: Tensors) -> nn.Module:
    _require_keys("settings", settings, _OUTPUT)
    _require_keys("tensors", tensors, set())
    return QuantizedActivation(torch.ops.quantized.hardswish, _output(settings))


def _assemble_leaky_relu(settings: Settings, tensors: Tensors) -> nn.Module:
    _require_keys("settings", settings, {*_OUTPUT, "negative_slope"})
    _require_keys("tensors", tensors, set())
    slope = settings["negative_slope"]
    if not isinstance(slope, float):
        raise TypeError("negative_slope is no float")
    return QuantizedActivation(torch.ops.quantized.leaky_relu, (slope, False, *_output(settings)))


_ASSEMBLE: dict[str, Callable[[Settings, Tensors], nn.Module]] = {
    "quantized.conv2d": _assemble_conv,
    "quantized.linear": _assemble_linear,
    "quantized.batch_norm2d": _assemble_batch_norm,
    "quantized.hardswish": _assemble_hardswish,
    "quantized.leaky_relu": _assemble_leaky_relu,
    "conv2d": _assemble_float_conv,
    "linear": _assemble_float_linear,
}


def _weight_and_bias(
    settings: Settings, tensors: Tensors, dimensions: int
) -> tuple[Tensor, Tensor | None]:
    _require_keys("tensors", tensors, _WEIGHT | ({"bias"} if _flag(settings["bias"]) else set()))
    weight, scale, zero_point = (tensors[key] for key in sorted(_WEIGHT))
    if weight.dtype != torch.int8 or weight.dim() != dimensions or weight.numel() == 0:
        raise ValueError(f"weight is no int8 tensor of {dimensions} dimensions")
    channels = weight.shape[0]
    shape = () if scale.dim() == 0 else (channels,)
    _require_tensor("weight_scale", scale, torch.float64, shape)
    _require_tensor("weight_zero_point", zero_point, torch.int64, shape)
    if not bool((scale > 0).all()) or not bool((zero_point.abs() <= 128).all()):
        raise ValueError("a weight scale is not positive, or a zero point is out of range")
    bias = tensors.get("bias")
    if bias is not None:
        _require_tensor("bias", bias, torch.float32, (channels,))
    return _quantized(weight, scale, zero_point), bias


def _quantized(weight: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    if scale.dim() == 0:
        return torch._make_per_tensor_quantized_tensor(weight, float(scale), int(zero_point))
    return torch._make_per_channel_quantized_tensor(weight, scale, zero_point, 0)


def _require_keys(what: str, mapping: Mapping[str, Any], keys: set[str]) -> None:
    if set(mapping) != keys:
        raise ValueError(f"its {what} are {sorted(mapping)}, not {sorted(keys)}")


def _require_tensor(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or infinite values")


def _check_settings(settings: Settings) -> None:
    for key, value in settings.items():
        for item in value if isinstance(value, tuple) else (value,):
            if item is not None and not isinstance(item, bool | int | float | str):
                raise TypeError(f"{key} is a {type(item).__name__}")
            if isinstance(item, int | float) and not abs(item) <= MAX_SETTING:
                raise ValueError(f"{key} = {item} is out of range")
            if key in _POSITIVE and item is not None and (isinstance(item, str) or item < 1):
                raise ValueError(f"{key} = {item} is not positive")


def _output(settings: Settings) -> tuple[float, int]:
    zero_point = settings["zero_point"]
    if type(zero_point) is not int or not 0 <= zero_point <= 255:
        raise ValueError(f"zero_point = {zero_point!r} is no integer from 0 to 255")
    return _positive_float(settings["scale"]), zero_point


def _positive_float(value: Any) -> float:
    if not isinstance(value, float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{value!r} is no positive number")
    return value


def _positive_int(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no positive integer")
    return value


def _pair(value: Any, least: int) -> tuple[int, int]:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"{value!r} is no pair")
    if any(type(v) is not int or v < least for v in value):
        raise ValueError(f"{value!r} is no pair of integers from {least}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value
