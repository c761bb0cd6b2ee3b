"""An edge as a plain list of layers: what the writers of ``.tflite`` and ``.pte`` read.

Shapes are torch's, channels first, without the batch axis. A value on a grid is uint8 with FX's own
scale and zero point; one without is float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

#: ``quantize`` takes a float32 value or one on another grid. ``clamp`` to real bounds ``lower`` and
#: ``upper``, either None. The pointwise functions are torch's of the same name.
Kind = Literal[
    "quantize",
    "convolution",
    "linear",
    "add",
    "mul",
    "clamp",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "silu",
    "leaky_relu",
    "mean",
    "average_pool",
    "max_pool",
    "reshape",
    "permute",
    "slice",
    "concat",
]


@dataclass(frozen=True)
class Grid:
    """A quantized tensor's steps: real = scale · (q − zero_point), 0 ≤ q ≤ 255.

    ``scale`` is the float32 that torch's kernels compute with.
    """

    scale: float
    zero_point: int

    def step_of(self, real: float) -> int:
        """Return the stored integer of a real number, rounded half to even and clipped."""
        step = np.rint(np.float32(real) * (np.float32(1.0) / np.float32(self.scale)))
        return int(np.clip(int(step) + self.zero_point, 0, 255))


@dataclass(frozen=True)
class Value:
    """One tensor; ``name`` is that of the FX node that makes it."""

    name: str
    shape: tuple[int, ...]
    grid: Grid | None = None


@dataclass(frozen=True)
class Weights:
    """A layer's weight, (O, I / groups, kh, kw) or (O, I), and bias, (O,).

    Quantized: ``values`` int8, ``scales`` float32 (O,), ``bias`` int32 in units of input scale ·
    weight scale. Float: ``values`` and ``bias`` float32, ``scales`` None. A missing bias is zeros.
    ``real_bias``: float32 (O,), the bias in real units; where quantized, on its steps.
    """

    values: npt.NDArray[Any]
    bias: npt.NDArray[Any]
    real_bias: npt.NDArray[np.float32]
    scales: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Layer:
    """One operator; ``operator`` is what the FX graph calls it, for people.

    ``inputs`` may hold numbers where the operator takes one beside a tensor.
    ``settings``: *convolution* stride, padding, dilation (pairs, height first), groups; *pools*
    kernel, stride, padding, and count_include_pad of the average; *mean* keep (of the last two
    axes); *permute* order with the batch axis; *slice* axis with the batch axis, start, end, step;
    *concat* axis; *clamp* lower, upper; *leaky_relu* slope. ``relu``: a ReLU is fused.
    """

    kind: Kind
    operator: str
    inputs: tuple[Value | float, ...]
    output: Value
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None

    @property
    def source(self) -> Value:
        """The first input that is a tensor."""
        return next(value for value in self.inputs if isinstance(value, Value))

    @property
    def relu(self) -> bool:
        """Whether a ReLU is fused."""
        return bool(self.settings.get("relu", False))


@dataclass(frozen=True)
class LayerGraph:
    """A whole edge: images in float32, layers in order, the boundary that they end with."""

    image: Value
    layers: tuple[Layer, ...]
    boundary: Value
