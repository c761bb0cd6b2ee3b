"""Equalized channels: never another FP32 bit, and a planted imbalance that no longer costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from baseline.split import split_network
from export.equalization import equalize, find_links
from export.folding import fold_batch_norms
from export.quantize import qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe
from tests.export.edges import batch, network, split

PER_TENSOR = ExportRecipe(weight_observer="per-tensor", activation_observer="min-max")
EQUALIZED = ExportRecipe(
    weight_observer="per-tensor", activation_observer="min-max", equalization=True
)


def links_of(name: str, cut: str) -> set[str]:
    return {str(link) for link in find_links(fold_batch_norms(split(name, cut).edge))}


def test_links_of_mobilenet_v3_small_stop_at_hard_swish_and_at_skips() -> None:
    # features.1: depthwise, ReLU, squeeze-excite product, projection; its output goes on alone.
    # features.2 and 3: expansion, ReLU, depthwise, ReLU, projection. The output of features.2
    # is read by a skip connection, and features.0 and features.4 use hard-swish.
    assert links_of("mobilenet_v3_small", "features.4") == {
        "features.1.block.0.0 > features.1.block.1.fc1, features.1.block.2.0",
        "features.1.block.1.fc1 > features.1.block.1.fc2",
        "features.1.block.2.0 > features.2.block.0.0",
        "features.2.block.0.0 > features.2.block.1.0",
        "features.2.block.1.0 > features.2.block.2.0",
        "features.3.block.0.0 > features.3.block.1.0",
        "features.3.block.1.0 > features.3.block.2.0",
        "features.4.block.2.fc1 > features.4.block.2.fc2",
    }


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("tiny", "block3"),
        ("mobilenet_v3_small", "features.4"),
        ("shufflenet_v2_x1_0", "stage3.0"),
        ("resnet18", "layer2.0"),
    ],
)
def test_not_one_bit_of_the_fp32_function_changes(name: str, cut: str) -> None:
    edge = split(name, cut).edge
    before = {key: value.clone() for key, value in edge.state_dict().items()}
    equalized, links = equalize(edge)
    with torch.inference_mode():
        assert torch.equal(equalized(batch()), fold_batch_norms(edge)(batch()))
    assert links
    weights = dict(fold_batch_norms(edge).named_parameters())
    assert any(not torch.equal(p, weights[n]) for n, p in equalized.named_parameters())
    assert all(torch.equal(value, before[key]) for key, value in edge.state_dict().items())


def ratio(edge: fx.GraphModule, first: str, second: str) -> float:
    """Return the largest ratio, either way, of a channel's largest weights on both sides."""
    layers: list[Any] = [edge.get_submodule(path) for path in (first, second)]
    out = layers[0].weight.flatten(1).abs().amax(1)
    taken = layers[1].weight.flatten(1).abs().amax(1)  # depthwise: one input an output
    return float((out / taken).log2().abs().max().exp2())


def test_both_sides_of_a_depthwise_link_become_equal_to_a_factor_of_two() -> None:
    edge = fold_batch_norms(split("mobilenet_v3_small", "features.2").edge)
    pair = ("features.2.block.0.0", "features.2.block.1.0")
    assert ratio(edge, *pair) > 3
    assert ratio(equalize(edge)[0], *pair) <= 2.01


class Joined(nn.Module):
    """Two convolutions and what stands between them."""

    def __init__(self, between: nn.Module, *, square: bool = False, groups: int = 1) -> None:
        super().__init__()
        self.first, self.between = nn.Conv2d(3, 8, 3), between
        self.second = nn.Conv2d(8, 8, 3, groups=groups)
        self.square = square

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self.first(x))
        result: Tensor = self.second(y * y if self.square else y)
        return result


def joined(between: nn.Module, **settings: Any) -> fx.GraphModule:
    torch.manual_seed(0)
    return split_network(nn.Sequential(Joined(between, **settings), nn.Flatten()), "0").edge


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("between", [nn.ReLU(), nn.Identity(), nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_homogeneous_operators_join_grouped_convolutions_too(
    between: nn.Module, groups: int
) -> None:
    edge = joined(between, groups=groups)
    equalized, links = equalize(edge)
    assert [str(link) for link in links] == ["0.first > 0.second"]
    with torch.inference_mode():
        assert torch.equal(equalized(batch()), edge(batch()))


@pytest.mark.parametrize("between", [nn.Hardswish(), nn.ReLU6(), nn.Sigmoid(), nn.GELU()])
def test_nothing_else_joins(between: nn.Module) -> None:
    edge = joined(between)
    equalized, links = equalize(edge)
    assert links == ()
    assert all(
        torch.equal(p, q) for p, q in zip(edge.parameters(), equalized.parameters(), strict=True)
    )


def test_a_squared_channel_would_take_the_factor_twice() -> None:
    assert find_links(joined(nn.ReLU(), square=True)) == ()


class Rows(nn.Module):
    """A linear layer that reads rows, as many as there are channels."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.first, self.pool = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1 if flat else 8)
        self.flat, self.last = flat, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.first(x))
        result: Tensor = self.last(torch.flatten(y, 1) if self.flat else y)
        return result


@pytest.mark.parametrize("flat", [True, False])
def test_a_linear_layer_reads_channels_only_when_they_are_flattened(flat: bool) -> None:
    torch.manual_seed(0)
    edge = split_network(nn.Sequential(Rows(flat=flat), nn.Flatten()), "0").edge
    equalized, links = equalize(edge)
    assert len(links) == int(flat)
    with torch.inference_mode():
        assert torch.equal(equalized(batch()), edge(batch()))


def planted() -> nn.Module:
    """Return the network with channels of features.2 hundreds of times louder on one side."""
    model = copy.deepcopy(network("mobilenet_v3_small"))
    loud = torch.logspace(-1.3, 1.3, 72)[torch.randperm(72, generator=_seeded())]
    norm: Any = model.get_submodule("features.2.block.0.1")
    reader: Any = model.get_submodule("features.2.block.1.0")
    with torch.no_grad():
        norm.weight.mul_(loud)
        norm.bias.mul_(loud)
        reader.weight.div_(loud.reshape(-1, 1, 1, 1))
    return model


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def sqnr_db(model: nn.Module, recipe: ExportRecipe) -> float:
    edge = split_network(model, "features.2").edge
    quantized = quantize_edge(edge, [batch()], recipe).float_boundary
    with qnnpack_engine(), torch.inference_mode():
        expected, sent = edge(batch()), quantized(batch())
    return float(10 * torch.log10(expected.square().sum() / (expected - sent).square().sum()))


def test_a_planted_imbalance_costs_nothing_once_equalized() -> None:
    balanced = sqnr_db(network("mobilenet_v3_small"), PER_TENSOR)
    assert sqnr_db(planted(), PER_TENSOR) < balanced - 3
    assert sqnr_db(planted(), EQUALIZED) > balanced - 1


def test_the_quantized_edge_says_which_layers_were_equalized() -> None:
    edge = split("mobilenet_v3_small", "features.0").edge
    assert quantize_edge(edge, [batch()], EQUALIZED).equalized == ()
    edge = split("tiny", "block2").edge
    found = quantize_edge(edge, [batch()], EQUALIZED).equalized
    assert "block2.squeeze.reduce > block2.squeeze.expand" in found
