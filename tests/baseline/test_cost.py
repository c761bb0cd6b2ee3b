"""Costs against numbers worked out by hand, and against what torchvision publishes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torchvision import models

from baseline.cost import convolution_macs, linear_macs, node_costs


def total(module: nn.Module, shape: tuple[int, ...]) -> int:
    return sum(cost.macs for cost in node_costs(fx.symbolic_trace(module), shape).values())


def test_a_convolution_by_hand() -> None:
    # 16 outputs on 4×4 places (stride 2 of 8×8), each from 3 channels × 3×3.
    module = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1))
    assert total(module, (3, 8, 8)) == 16 * 4 * 4 * 3 * 9 == 6912


def test_a_depthwise_convolution_counts_one_channel_an_output() -> None:
    module = nn.Sequential(nn.Conv2d(6, 6, 5, padding=2, groups=6))
    assert total(module, (6, 7, 7)) == 6 * 49 * 25


def test_a_transposed_convolution_counts_its_input() -> None:
    # Every one of 4×5×5 inputs is multiplied into 2 outputs × 3×3.
    module = nn.Sequential(nn.ConvTranspose2d(4, 2, 3, stride=2))
    assert total(module, (4, 5, 5)) == 4 * 25 * 2 * 9


def test_linear_counts_its_matrix_and_nothing_else_counts() -> None:
    module = nn.Sequential(
        nn.BatchNorm2d(3).eval(), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)
    )
    assert total(module, (3, 4, 4)) == 60


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(4, 3, 3, 3))
        self.matrix = nn.Parameter(torch.zeros(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.conv2d(x, weight=self.kernel)
        return nn.functional.linear(x.mean((2, 3)), self.matrix)


def test_functions_count_as_modules_do() -> None:
    assert total(Functional(), (3, 6, 6)) == 4 * 16 * 27 + 20


def test_shapes_keep_the_batch_axis_and_integers_have_none() -> None:
    class Reshape(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(x.size(0), -1)

    costs = node_costs(fx.symbolic_trace(Reshape()), (2, 3))
    assert costs["view"].shape == (1, 6)
    assert costs["size"].shape is None


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_whole_networks_agree_with_torchvisions_published_figures(name: str) -> None:
    published = models.get_model_weights(name).DEFAULT.meta["_ops"]  # 1e9, three decimals
    macs = total(models.get_model(name).eval(), (3, 224, 224))
    assert macs / 1e9 == pytest.approx(published, abs=0.0011)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    window=st.integers(1, 3),
    side=st.integers(3, 6),
)
def test_a_convolution_costs_what_counting_its_products_gives(
    groups: int, inputs: int, outputs: int, window: int, side: int
) -> None:
    # With all weights and inputs 1, each output value is the number of products that made it.
    layer = nn.Conv2d(groups * inputs, groups * outputs, window, groups=groups, bias=False)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        result = layer(torch.ones(1, groups * inputs, side, side))
    assert convolution_macs(tuple(layer.weight.shape), tuple(result.shape)) == int(result.sum())


def test_linear_macs_of_a_sequence() -> None:
    assert linear_macs((7, 3), (1, 5, 7)) == 5 * 7 * 3
