"""The boundary at fewer bits than the weights: a second quantization at the end of the graph.

The INT8 edge keeps its own 8-bit last tensor. Behind it stand a dequantize, a quantize with the
boundary's own scale, and a clamp of the stored integers to 0 … 2^bits − 1: torch's and ONNX's
quantize clip at 255 only. Clamping integers rather than floats leaves no float rounding at the
ends of the range, and no node in float.

With ``export/quantize.py`` the only module that touches ``torch.ao``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.ao.quantization.observer import UniformQuantizationObserverBase

#: Starting scales of each zero point's search, as shares of the scale that clips nothing.
_STARTS = np.linspace(0.01, 1.0, 200)
_REFINEMENTS = 6

Real = npt.NDArray[np.float64]


class BoundaryMseObserver(UniformQuantizationObserverBase):
    """Finds the scale and zero point with the least squared error on the values that it saw.

    Over integer zero points z in ``quant_min … quant_max`` and scales s, it minimises
    ``Σ w·(x − s·(q(x) − z))²`` with ``q(x) = clip(round(x / s) + z, quant_min, quant_max)``: from
    200 starting scales for each zero point, alternating between the best q for s and the best s for
    q in closed form (Lloyd 1982, "Least squares quantization in PCM", on a uniform grid).

    torch's HistogramObserver looks for the best range of 256 levels whatever ``quant_max`` is
    (``dst_nbins``), and an observer of the range alone lets outliers decide: at few bits both
    leave most values on one level.

    Every distinct value is kept with its count, so it is meant for tensors that were quantized to
    8 bits before: these have at most 256.
    """

    def __init__(self, quant_min: int, quant_max: int) -> None:
        """Watch for the integers ``quant_min`` … ``quant_max``, stored as quint8."""
        super().__init__(
            dtype=torch.quint8,
            qscheme=torch.per_tensor_affine,
            quant_min=quant_min,
            quant_max=quant_max,
        )
        self._counts: dict[float, int] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Count the values of a float tensor of any shape and return it unchanged."""
        values, counts = torch.unique(x.detach(), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._counts[value] = self._counts.get(value, 0) + count
        return x

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Return the scale, float32 of shape (1,), and the zero point, int64 of shape (1,).

        1 and 0, as of torch's own observers, where nothing but zeros was seen.
        """
        values = np.fromiter(self._counts.keys(), np.float64, len(self._counts))
        weights = np.fromiter(self._counts.values(), np.float64, len(self._counts))
        error, scale, zero_point = np.inf, 1.0, 0
        for candidate in range(int(self.quant_min), int(self.quant_max) + 1):
            found = _best_scale(
                values, weights, self.quant_min - candidate, self.quant_max - candidate
            )
            # An infinite error stands for "no scale": all values lie on the other side of zero.
            if found[0] < error:
                error, scale, zero_point = *found, candidate
        smallest = float(torch.finfo(torch.float32).tiny)
        return torch.tensor([max(scale, smallest)]), torch.tensor([zero_point])


def _best_scale(values: Real, weights: Real, lowest: int, highest: int) -> tuple[float, float]:
    """Return the least squared error on the steps ``lowest … highest`` and its scale."""
    largest = _scale_that_clips_nothing(values, lowest, highest)
    if largest <= 0.0:
        return np.inf, 1.0
    scales = largest * _STARTS[:, None]
    for _ in range(_REFINEMENTS):
        steps = np.clip(np.rint(values / scales), lowest, highest)
        energy = (weights * steps * steps).sum(1, keepdims=True)
        fitted = (weights * values * steps).sum(1, keepdims=True)
        # A start whose values all round to zero has no better scale; it stays and loses.
        scales = np.divide(fitted, energy, out=scales.copy(), where=energy > 0)
    steps = np.clip(np.rint(values / scales), lowest, highest)
    errors = (weights * (values - scales * steps) ** 2).sum(1)
    best = int(np.argmin(errors))
    return float(errors[best]), float(scales[best, 0])


def _scale_that_clips_nothing(values: Real, lowest: int, highest: int) -> float:
    """Return it, as far as there are steps on both sides of zero; 0 where no value needs one."""
    if len(values) == 0:
        return 0.0
    below = -min(float(values.min()), 0.0) / -lowest if lowest < 0 else 0.0
    above = max(float(values.max()), 0.0) / highest if highest > 0 else 0.0
    return max(below, above)


def narrow_boundary(module: fx.GraphModule, batches: Iterable[Tensor], bits: int) -> fx.Node:
    """Quantize once more, to ``bits``, what a graph that ends with a dequantize returns.

    Args:
        module: images (N, 3, S, S) float32 → boundary (N, …) float32; changed in place.
        batches: calibration images.
        bits: 1 to 7; the stored integers are 0 … 2^bits − 1.

    Returns:
        The quantized node before the new dequantize that the graph now ends with.
    """
    highest = 2**bits - 1
    observer = BoundaryMseObserver(0, highest)
    for batch in batches:
        observer(module(batch))
    scale, zero_point = (found.item() for found in observer.calculate_qparams())
    output = module.graph.output_node()
    last = output.all_input_nodes[0]
    with module.graph.inserting_before(output):
        stored = module.graph.call_function(
            torch.quantize_per_tensor, (last, scale, int(zero_point), torch.quint8)
        )
        # qnnpack's clamp mixes up channels-last tensors; see `_clamp_contiguous_tensors_only`.
        contiguous = module.graph.call_method("contiguous", (stored,))
        ends = clamp_ends(scale, int(zero_point), bits)
        clamped = module.graph.call_function(torch.clamp, (contiguous, *ends))
        output.args = (module.graph.call_method("dequantize", (clamped,)),)
    module.recompile()
    return clamped


def clamp_ends(scale: float, zero_point: int, bits: int) -> tuple[float, float]:
    """Return the real values of the integers 0 and 2^bits − 1, which a quantized clamp rounds back.

    Args:
        scale: of the boundary, a normal float32.
        zero_point: 0 … 2^bits − 1.
        bits: 1 to 8.
    """
    return -zero_point * scale, (2**bits - 1 - zero_point) * scale
