"""How a sum is written for XNNPACK so that it gives FX's integers, those of QNNPACK.

Both add stored integers in fixed point. QNNPACK's multipliers have 22 bits and its halves go away
from zero, XNNPACK's have 21 and its halves go up: a few of the 65,536 pairs of stored integers then
give a neighbour, and where such a pair is frequent a deep network multiplies it. A sum in float32
between FX's grids errs at other pairs. All pairs are computed in every way, and the cheapest way is
taken that gives torch's own integer for each of them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from export.layers import Grid, Layer, Value
from export.quantize import qnnpack_engine

_LEVELS = 256
_MAX = _LEVELS - 1
#: Bits of XNNPACK's multipliers beside the leading one.
_MULTIPLIER_BITS = 20
#: Scales of an input over that of the output that XNNPACK's kernel takes.
_LEAST_RATIO, _RATIO_END = 2.0**-10, 2.0**8
#: float32 steps by which either input may be scaled, up and down.
_MOST_STEPS = 12
#: No factor moves a sum further than this, in steps of the output.
_NEAR_HALF = 1e-3

Codes = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AddForm:
    """``integer``: XNNPACK's own kernel; else a sum of float32 tensors.

    ``factors``: what the dequantized inputs are multiplied by first, within 2e-6 of 1; a 1 is left
    out. ``differing``: how many of the 65,536 pairs of stored integers give another integer than
    torch's operator; None where they were not compared.
    """

    integer: bool
    factors: tuple[float, float] = (1.0, 1.0)
    differing: int | None = None


def add_form(layer: Layer) -> AddForm:
    """Return how a sum is written: by what all pairs of stored integers give.

    Sums of unlike shapes (torch has another kernel for them), with a number or in float are written
    as they stand.

    Args:
        layer: of kind ``add``; FX's operator is run on engine qnnpack.
    """
    first, second = layer.inputs
    if not isinstance(first, Value) or not isinstance(second, Value):
        return AddForm(integer=True)
    grids = (first.grid, second.grid, layer.output.grid)
    if None in grids or first.shape != second.shape:
        return AddForm(integer=True)
    return _form(*grids, relu=layer.relu)


@functools.lru_cache(maxsize=256)
def _form(first: Grid, second: Grid, output: Grid, *, relu: bool) -> AddForm:
    sums = _Sums(first, second, output, relu)
    wanted = _torch_integers(first, second, output, relu=relu)
    stored = sums.of_integers()
    fixed = wanted.size if stored is None else _count(stored, wanted)
    if fixed == 0:
        return AddForm(integer=True, differing=0)
    factors = _best_factors(sums, wanted)
    floats = _count(sums.of_floats(factors), wanted)
    if fixed <= floats:
        return AddForm(integer=True, differing=fixed)
    return AddForm(integer=False, factors=factors, differing=floats)


def _best_factors(sums: _Sums, wanted: Codes) -> tuple[float, float]:
    near = sums.near_half()
    fewest, best = wanted.size, (1.0, 1.0)
    for factors in _factors():
        found = _count(sums.of_floats(factors, near), wanted[near])
        if found < fewest:
            fewest, best = found, factors
        if fewest == 0:
            break
    return best


def _count(found: Codes, wanted: Codes) -> int:
    return int((found != wanted).sum())


class _Sums:
    """All pairs of stored integers, added in XNNPACK's arithmetic."""

    def __init__(self, first: Grid, second: Grid, output: Grid, relu: bool) -> None:
        self._grids, self._output = (first, second), output
        self._least = output.zero_point if relu else 0
        codes = np.arange(_LEVELS, dtype=np.int64)
        self._steps = (
            np.repeat(codes, _LEVELS) - first.zero_point,
            np.tile(codes, _LEVELS) - second.zero_point,
        )

    def of_integers(self) -> Codes | None:
        """Add as the int8 kernel does; None where it does not take these scales."""
        out = np.float32(self._output.scale)
        ratios = [float(np.float32(grid.scale) / out) for grid in self._grids]
        if not all(_LEAST_RATIO <= ratio < _RATIO_END for ratio in ratios):
            return None
        shift = _MULTIPLIER_BITS - int(np.floor(np.log2(max(ratios))))
        multipliers = [int(np.rint(np.ldexp(ratio, shift))) for ratio in ratios]
        total = sum(m * steps for m, steps in zip(multipliers, self._steps, strict=True))
        return self._stored((np.asarray(total) + (1 << (shift - 1))) >> shift)

    def of_floats(self, factors: tuple[float, float], which: Codes | None = None) -> Codes:
        """Add in float32; ``which``: indices of pairs, all for None."""
        return self._stored(np.rint(self._real(factors, which)).astype(np.int64))

    def near_half(self) -> Codes:
        """Return the pairs whose sum lies so near a half that a factor could round it otherwise."""
        real = self._real((1.0, 1.0), None).astype(np.float64)
        return np.flatnonzero(np.abs(np.abs(real - np.rint(real)) - 0.5) < _NEAR_HALF)

    def _real(self, factors: tuple[float, float], which: Codes | None) -> Reals:
        """Return the sums in steps of the output, before they are rounded."""
        total = np.zeros(1, np.float32)
        for steps, grid, factor in zip(self._steps, self._grids, factors, strict=True):
            chosen = steps if which is None else steps[which]
            real = chosen.astype(np.float32) * np.float32(grid.scale)
            total = total + (real * np.float32(factor) if factor != 1 else real)
        return np.asarray(total * (np.float32(1) / np.float32(self._output.scale)), np.float32)

    def _stored(self, steps: Codes) -> Codes:
        return np.clip(steps + self._output.zero_point, self._least, _MAX)


def _factors() -> Iterator[tuple[float, float]]:
    """Yield pairs of factors, the fewest and smallest changes first."""
    steps = range(-_MOST_STEPS, _MOST_STEPS + 1)
    pairs = [(a, b) for a in steps for b in steps]
    pairs.sort(key=lambda pair: ((pair[0] != 0) + (pair[1] != 0), abs(pair[0]) + abs(pair[1])))
    unit = float(np.finfo(np.float32).eps)
    yield from ((1 + a * unit, 1 + b * unit) for a, b in pairs)


def _torch_integers(first: Grid, second: Grid, output: Grid, *, relu: bool) -> Codes:
    """Return what torch's operator makes of every pair."""
    operator = torch.ops.quantized.add_relu if relu else torch.ops.quantized.add
    codes = torch.arange(_LEVELS, dtype=torch.uint8)
    sides = (codes.repeat_interleave(_LEVELS), codes.repeat(_LEVELS))
    with qnnpack_engine(), torch.inference_mode(), warnings.catch_warnings():
        # Quantized tensors are deprecated in the pinned torch; `export.quantize` makes them too.
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        inputs = [
            torch._make_per_tensor_quantized_tensor(side, grid.scale, grid.zero_point)
            for side, grid in zip(sides, (first, second), strict=True)
        ]
        found = operator(*inputs, output.scale, output.zero_point)
        return np.asarray(found.int_repr().numpy(), np.int64)
