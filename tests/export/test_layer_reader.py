"""What the layers of an edge say, against torch's own modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from export.layer_reader import read_layers
from export.layer_weights import requantizing_scales
from export.layers import Grid
from export.quantize import quantize_edge
from records.errors import ExportError
from records.recipe import ExportRecipe
from tests.export import edges

SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "cut"),
    [("tiny", "pool"), ("mobilenet_v3_small", "features.8"), ("shufflenet_v2_x1_0", "stage3.0")],
)
def test_every_grid_is_one_that_fx_calibrated(name: str, cut: str) -> None:
    quantized = edges.quantized(name, cut)
    layers = read_layers(quantized.float_boundary, SHAPE)
    known = {(float(np.float32(q.scale)), q.zero_point) for q in quantized.qparams}
    used = [layer.output.grid for layer in layers.layers]
    assert all(grid is not None and (grid.scale, grid.zero_point) in known for grid in used)
    expected = Grid(float(np.float32(quantized.wire_scale)), quantized.wire_zero_point)
    assert layers.boundary.grid == expected


def test_batch_norm_is_folded_and_the_edge_left_alone() -> None:
    edge = edges.split("tiny", "block1").edge
    before = {key: value.clone() for key, value in edge.state_dict().items()}
    layers = read_layers(edge, SHAPE)
    assert {layer.kind for layer in layers.layers} == {"convolution", "clamp", "hardswish", "add"}
    assert all(value.grid is None for layer in layers.layers for value in (layer.output,))
    assert all(torch.equal(value, before[key]) for key, value in edge.state_dict().items())


def test_an_integer_bias_is_in_units_of_both_scales() -> None:
    layers = read_layers(edges.quantized("tiny", "block1").float_boundary, SHAPE)
    first = next(layer for layer in layers.layers if layer.kind == "convolution")
    assert first.weights is not None
    assert first.weights.scales is not None
    assert first.source.grid is not None
    units = first.weights.scales.astype(np.float64) * first.source.grid.scale
    error = np.abs(first.weights.bias * units - first.weights.real_bias)
    assert (error <= 1e-3 * units).all()
    assert first.weights.values.dtype == np.int8


def test_scales_give_xnnpack_the_factor_of_qnnpack() -> None:
    rng = np.random.default_rng(0)
    given, step = np.float32(0.0234567), np.float32(0.0412345)
    scales = rng.uniform(1e-4, 1e-2, 5000).astype(np.float32)
    wanted = (scales * given) * (np.float32(1) / step)
    shipped = requantizing_scales(scales, float(given), float(step))
    before, after = (given * s / step == wanted for s in (scales, shipped))
    assert after.mean() > before.mean() + 0.1
    np.testing.assert_array_equal(shipped[before], scales[before])
    np.testing.assert_allclose(shipped, scales, rtol=4e-7)
    assert shipped.dtype == np.float32


def test_where_no_scale_gives_the_factor_the_one_with_the_fewest_other_roundings_is_taken() -> None:
    rng = np.random.default_rng(0)
    given, step = np.float32(0.0234567), np.float32(0.0412345)
    scales = rng.uniform(1e-3, 1e-2, 400).astype(np.float32)
    wanted = (scales * given) * (np.float32(1) / step)
    shipped = requantizing_scales(scales, float(given), float(step))
    missed = np.flatnonzero(given * shipped / step != wanted)
    assert len(missed) > 20
    better = 0
    for channel in missed:
        one = wanted[channel]
        sums = np.arange(int(255 / one) + 1).astype(np.float32)

        def otherwise(scale: np.float32, one: Any = one, sums: Any = sums) -> int:
            return int((np.rint(sums * one) != np.rint(sums * (given * scale / step))).sum())

        below, above = (np.nextafter(scales[channel], np.float32(end)) for end in (0, 1))
        fewest = min(otherwise(s) for s in (scales[channel], below, above))
        assert otherwise(shipped[channel]) <= fewest
        better += otherwise(shipped[channel]) < otherwise(scales[channel])
    assert better > 0


class _Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.conv(x), 1)


@pytest.mark.parametrize("quantizes", [False, True])
def test_stochastic_depth_changes_nothing_outside_training(quantizes: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), StochasticDepth(0.5, "row"))
    edge = fx.symbolic_trace(module.eval())
    if quantizes:
        recipe = ExportRecipe(activation_observer="min-max")
        layers = read_layers(quantize_edge(edge, [edges.batch()], recipe).float_boundary, SHAPE)
        kinds = [layer.kind for layer in layers.layers]
        assert kinds == ["quantize", "convolution", "quantize"]
        return
    assert [layer.kind for layer in read_layers(edge, SHAPE).layers] == ["convolution"]
    with pytest.raises(ExportError, match="outside eval mode"):
        read_layers(fx.symbolic_trace(module.train()), SHAPE)


class _Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y.mean(1)


@pytest.mark.parametrize(("module", "words"), [(_Softmax, "softmax"), (_Half, "mean")])
def test_an_operator_without_a_layer_is_named_with_the_way_out(
    module: type[nn.Module], words: str
) -> None:
    torch.manual_seed(0)
    edge = fx.symbolic_trace(module().eval())
    quantized = quantize_edge(edge, [edges.batch()], ExportRecipe(activation_observer="min-max"))
    for graph in (edge, quantized.float_boundary):
        with pytest.raises(ExportError, match=words) as raised:
            read_layers(graph, SHAPE)
        assert "--formats ptl,onnx" in str(raised.value)


@pytest.mark.parametrize(
    ("real", "step"), [(0.0, 7), (0.25, 7), (0.75, 9), (-9.0, 0), (999.0, 255)]
)
def test_a_grid_rounds_half_to_even_and_clips(real: float, step: int) -> None:
    assert Grid(0.5, 7).step_of(real) == step
