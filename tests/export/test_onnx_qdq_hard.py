"""Hard-sigmoid, hard-swish and a factor a channel: every stored integer gives FX's own integer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from export.onnx_qdq import write_qdq_onnx
from export.quantize import qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe
from tests.export.edges import batch, split

CODES = torch.arange(256)


class Swish(nn.Module):
    """Quantized hard-swish and nothing else."""

    def __init__(self, scale: float, zero_point: int, out: float, shift: int) -> None:
        super().__init__()
        self.scale, self.zero_point, self.out, self.shift = scale, zero_point, out, shift

    def forward(self, x: Tensor) -> Tensor:
        q = torch.quantize_per_tensor(x, self.scale, self.zero_point, torch.quint8)
        found: Tensor = torch.ops.quantized.hardswish(q, self.out, self.shift)
        return found.dequantize()


class Sigmoid(nn.Module):
    """Quantized hard-sigmoid and nothing else."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        q = torch.quantize_per_tensor(x, self.scale, self.zero_point, torch.quint8)
        return nn.functional.hardsigmoid(q).dequantize()


class Scaled(nn.Module):
    """A quantized image times one quantized factor a channel."""

    def __init__(self, *, swapped: bool) -> None:
        super().__init__()
        self.swapped = swapped

    def forward(self, x: Tensor) -> Tensor:
        q = torch.quantize_per_tensor(x, 0.05173, 100, torch.quint8)
        factor = q.mean((2, 3), keepdim=True)
        factors = (factor, q) if self.swapped else (q, factor)
        found: Tensor = torch.ops.quantized.mul(*factors, 0.03191, 20)
        return found.dequantize()


def options(*, optimized: bool) -> onnxruntime.SessionOptions:
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = 1
    if not optimized:
        chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return chosen


def compare(module: nn.Module, images: Tensor, folder: Path) -> list[str]:
    """Require equal integers in both modes; return the operators of the file."""
    traced, path = fx.symbolic_trace(module), folder / "x.onnx"
    path.unlink(missing_ok=True)
    write_qdq_onnx(traced, tuple(images.shape[1:]), path, opset=17, boundary="float")
    with qnnpack_engine():
        expected = traced(images).numpy()
    for optimized in (False, True):
        session = onnxruntime.InferenceSession(path, options(optimized=optimized))
        found = session.run(None, {"input": images.numpy()})[0]
        np.testing.assert_array_equal(found, expected)
    return [node.op_type for node in onnx.load_model(path).graph.node]


def every_code(scale: float, zero_point: int) -> Tensor:
    return ((CODES - zero_point) * scale).float().reshape(1, 4, 8, 8)


def optimized_operators(folder: Path) -> list[str]:
    chosen = options(optimized=True)
    chosen.log_severity_level = 3
    chosen.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(folder / "x.onnx", chosen)
    return [node.op_type for node in onnx.load_model(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize(
    ("steps", "zero_point", "made"),
    [
        pytest.param(48, 48, ["Clip", "Mul"], id="from -3 on"),
        pytest.param(48, 10, ["Add", "Mul"], id="above -3"),
        pytest.param(48, 90, ["Clip", "Mul"], id="below -3"),
        pytest.param(127, 127, ["Clip", "Mul"], id="to 3"),
    ],
)
def test_hard_swish_of_whole_steps_is_a_product_of_integers(
    steps: int, zero_point: int, made: list[str], tmp_path: Path
) -> None:
    scale = float(np.float32(3 / steps))
    module = Swish(scale, zero_point, 0.0231, 17)
    operators = compare(module, every_code(scale, zero_point), tmp_path)
    assert [op for op in operators if "Linear" not in op] == made
    left = [op for op in optimized_operators(tmp_path) if not op.startswith(("Q", "Deq"))]
    assert left == ["Clip"] * made.count("Clip")


@pytest.mark.parametrize("scale", [3 / 47.5, 0.001, 3 / 90.4])
def test_other_scales_stay_in_float(scale: float, tmp_path: Path) -> None:
    operators = compare(Swish(scale, 48, scale / 2, 3), every_code(scale, 48), tmp_path)
    assert "HardSwish" in operators
    assert "Clip" not in operators


@given(
    steps=st.floats(0.6, 140),
    zero_point=st.integers(0, 255),
    # Multiples of some odd number: results of rounder scales lie between two integers.
    out=st.integers(40, 2000).map(lambda n: n * 1.0000417e-4),
    shift=st.integers(0, 255),
)
@settings(max_examples=60, deadline=None)
def test_hard_swish_of_any_scale(
    tmp_path_factory: pytest.TempPathFactory, steps: float, zero_point: int, out: float, shift: int
) -> None:
    # Half of all examples have whole steps.
    whole = round(steps) if shift % 2 else steps
    scale = float(np.float32(3 / max(whole, 0.6)))
    folder = tmp_path_factory.mktemp("swish")
    compare(
        Swish(scale, zero_point, float(np.float32(out)), shift),
        every_code(scale, zero_point),
        folder,
    )


@given(scale=st.floats(2**-8, 2**2, width=32), zero_point=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_hard_sigmoid_is_one_table(
    tmp_path_factory: pytest.TempPathFactory, scale: float, zero_point: int
) -> None:
    folder = tmp_path_factory.mktemp("sigmoid")
    operators = compare(Sigmoid(scale, zero_point), every_code(scale, zero_point), folder)
    if "HardSigmoid" not in operators:
        assert "QLinearLeakyRelu" in optimized_operators(folder)


def test_hard_sigmoid_of_usual_scales_is_a_table(tmp_path: Path) -> None:
    for scale in (0.02, 0.0471, 0.11):
        operators = compare(Sigmoid(scale, 130), every_code(scale, 130), tmp_path)
        assert "HardSigmoid" not in operators


def test_hard_sigmoid_of_its_own_steps_is_no_operator(tmp_path: Path) -> None:
    operators = compare(Sigmoid(6 / 256, 128), every_code(6 / 256, 128), tmp_path)
    assert set(operators) == {"QuantizeLinear", "DequantizeLinear"}
    # One step beside, and it is not the same numbers.
    operators = compare(Sigmoid(6 / 256, 127), every_code(6 / 256, 127), tmp_path)
    assert set(operators) > {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("side", "rows"), [(4, False), (8, True)])
def test_a_factor_a_channel_is_repeated_where_that_pays(
    side: int, rows: bool, swapped: bool, tmp_path: Path
) -> None:
    images: Any = torch.randn(3, 5, side, side, generator=torch.Generator().manual_seed(0))
    operators = compare(Scaled(swapped=swapped), images, tmp_path)
    assert ("Tile" in operators) is rows


def test_with_whole_steps_no_hard_swish_is_left(tmp_path: Path) -> None:
    recipe = ExportRecipe(activation_observer="min-max", whole_steps=True)
    edge = quantize_edge(split("mobilenet_v3_small", "features.8").edge, [batch()], recipe)
    path = tmp_path / "x.onnx"
    write_qdq_onnx(edge.float_boundary, (3, 32, 32), path, opset=17, boundary="wire")
    operators = [node.op_type for node in onnx.load_model(path).graph.node]
    assert not {"HardSwish", "HardSigmoid", "LeakyRelu"} & set(operators)
    assert not {"HardSigmoid", "Mul", "HardSwish"} & set(optimized_operators(tmp_path))
    chosen = options(optimized=True)
    chosen.add_session_config_entry("session.x64quantprecision", "1")
    found = onnxruntime.InferenceSession(path, chosen).run(None, {"input": batch().numpy()})[0]
    with qnnpack_engine(), torch.no_grad():
        expected = edge.wire(batch()).numpy().astype(int)
    assert np.mean(np.abs(found.astype(int) - expected) <= 1) >= 0.99
