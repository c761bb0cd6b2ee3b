"""A sum in LiteRT and ExecuTorch: FX's own integer for all 65,536 pairs of stored integers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from export import pte_module, tflite, xnnpack_add
from export.layers import Grid, Layer, LayerGraph, Value
from export.pte import lower
from export.quantize import qnnpack_engine
from export.tflite import tflite_bytes
from export.xnnpack_add import AddForm, add_form
from records.manifest import Artifact, TensorSpec
from runtime_check.executorch import load_executorch
from runtime_check.litert import load_litert
from runtime_check.runtime import LoadedArtifact

Grids = tuple[Grid, Grid, Grid]
PAIRS = 256 * 256
ROW = Value("row", (2 * PAIRS,))

#: By what the sum needs: found among random grids, and a network's own.
EXACT_AS_INTEGERS: Grids = (Grid(0.212, 116), Grid(0.177, 75), Grid(0.253, 111))
EXACT_AS_FLOATS: Grids = (
    Grid(0.032176777720451355, 133),
    Grid(0.05319824069738388, 125),
    Grid(0.057865262031555176, 125),
)
ONE_FACTOR: Grids = (Grid(0.179, 115), Grid(0.039, 131), Grid(0.28, 143))
TWO_FACTORS: Grids = (Grid(0.155, 120), Grid(0.156, 126), Grid(0.132, 141))
ALL = (EXACT_AS_INTEGERS, EXACT_AS_FLOATS, ONE_FACTOR, TWO_FACTORS)
INTEGERS = AddForm(integer=True)


def summed(grids: Grids, *, relu: bool = False) -> LayerGraph:
    """Return one sum as a network: a row of floats, cut in two and put on the inputs' grids."""
    before: list[Layer] = []
    inputs = []
    for number, grid in enumerate(grids[:2]):
        part = Value(f"part_{number}", (PAIRS,))
        cut = {"axis": 1, "start": number * PAIRS, "end": (number + 1) * PAIRS, "step": 1}
        before.append(Layer("slice", "slice", (ROW,), part, cut))
        inputs.append(Value(f"source_{number}", (PAIRS,), _float32(grid)))
        before.append(Layer("quantize", "quantize", (part,), inputs[-1]))
    result = Value("result", (PAIRS,), _float32(grids[2]))
    layer = Layer("add", "add", tuple(inputs), result, {"relu": relu})
    return LayerGraph(ROW, (*before, layer), result)


def _float32(grid: Grid) -> Grid:
    return Grid(float(np.float32(grid.scale)), grid.zero_point)


def through_litert(graph: LayerGraph) -> LoadedArtifact:
    return load_litert(tflite_bytes(graph, boundary="wire"), artifact("litert"), threads=1)


def through_executorch(graph: LayerGraph) -> LoadedArtifact:
    program = lower(graph, wire=True)
    assert program.delegates == 1
    assert not any("quantize" in name for name in program.not_delegated)
    return load_executorch(program.data, artifact("executorch"), threads=1)


RUNTIMES: tuple[Callable[[LayerGraph], LoadedArtifact], ...] = (through_litert, through_executorch)


def artifact(format_name: Any) -> Artifact:
    return Artifact(
        name="sum",
        file="sum",
        format=format_name,
        role="edge",
        precision="int8",
        boundary="wire",
        sha256="0" * 64,
        size=1,
        weight_bytes=0,
        input=TensorSpec(name="input", shape=ROW.shape, dtype="float32"),
        output=TensorSpec(name="boundary", shape=(PAIRS,), dtype="uint8"),
    )


@functools.cache
def given(grids: Grids) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all pairs as two quantized tensors, shape (65536,)."""
    codes = torch.arange(256, dtype=torch.uint8)
    sides = (codes.repeat_interleave(256), codes.repeat(256))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            torch._make_per_tensor_quantized_tensor(side, _float32(grid).scale, grid.zero_point)
            for side, grid in zip(sides, grids[:2], strict=True)
        )
    return one, other


def differing(load: Callable[[LayerGraph], LoadedArtifact], grids: Grids, *, relu: bool) -> int:
    """Run all pairs in a runtime and count those that torch's operator gives otherwise."""
    pairs, out = given(grids), _float32(grids[2])
    operator = torch.ops.quantized.add_relu if relu else torch.ops.quantized.add
    with qnnpack_engine(), torch.inference_mode():
        wanted: npt.NDArray[np.uint8] = (
            operator(*pairs, out.scale, out.zero_point).int_repr().numpy()
        )
    row = np.concatenate([pair.dequantize().numpy() for pair in pairs])[None]
    return int((load(summed(grids, relu=relu)).run(row)[0] != wanted).sum())


def forms(grids: Grids, *, relu: bool = False) -> AddForm:
    return add_form(summed(grids, relu=relu).layers[-1])


def test_each_form_is_taken_where_it_is_needed() -> None:
    found = [forms(grids) for grids in ALL]
    assert [form.integer for form in found] == [True, False, False, False]
    factors = [sum(factor != 1 for factor in form.factors) for form in found]
    assert factors == [0, 0, 1, 2]
    assert all(abs(factor - 1) < 2e-6 for form in found for factor in form.factors)


@pytest.mark.parametrize("load", RUNTIMES)
@pytest.mark.parametrize("relu", [False, True])
def test_all_pairs_are_fxs_own(load: Callable[[LayerGraph], LoadedArtifact], relu: bool) -> None:
    for grids in ALL:
        assert forms(grids, relu=relu).differing == 0
        assert differing(load, grids, relu=relu) == 0


@pytest.mark.parametrize("load", RUNTIMES)
def test_the_integer_kernel_alone_differs_where_it_was_not_taken(
    load: Callable[[LayerGraph], LoadedArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tflite, pte_module):
        monkeypatch.setattr(module, "add_form", lambda layer: INTEGERS)
    for grids in ALL[1:]:
        # XNNPACK's arithmetic is ours to the last pair, and it is not that of torch.
        assert differing(load, grids, relu=False) == of_integers(grids) > 0
    assert differing(load, EXACT_AS_INTEGERS, relu=False) == 0


def of_integers(grids: Grids) -> int:
    first, second, output = map(_float32, grids)
    stored = xnnpack_add._Sums(first, second, output, False).of_integers()
    wanted = xnnpack_add._torch_integers(first, second, output, relu=False)
    assert stored is not None
    return int((stored != wanted).sum())


def test_scales_that_the_integer_kernel_does_not_take_are_added_as_floats() -> None:
    far: Grids = (Grid(1e-5, 100), Grid(0.1, 120), Grid(0.1, 130))
    form = forms(far)
    assert not form.integer
    assert form.differing == 0


def test_what_is_no_sum_of_two_like_tensors_on_grids_is_written_as_it_stands() -> None:
    layer = summed(TWO_FACTORS).layers[-1]
    first, second = (value for value in layer.inputs if isinstance(value, Value))
    for other in (Value(second.name, (1,), second.grid), Value(second.name, first.shape), 1.0):
        changed = Layer("add", "add", (first, other), layer.output, {"relu": False})
        assert add_form(changed) == INTEGERS
