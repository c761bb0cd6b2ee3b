"""BatchNorm statistics estimated anew: quantized channels get the moments of the float ones."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, fx

from export.bn_reestimation import Moments, reestimate
from export.folding import normalized_layers
from export.quantize import qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe
from tests.export.edges import batch, split

Weights = Literal["per-channel", "per-tensor"]


def edges(weights: Weights) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the quantized edge without and with new statistics."""
    edge = split("mobilenet_v3_small", "features.2").edge
    plain, estimated = (
        quantize_edge(
            edge,
            [batch()],
            ExportRecipe(
                weight_observer=weights, activation_observer="min-max", bn_reestimation=on
            ),
        ).float_boundary
        for on in (False, True)
    )
    return plain, estimated


def moments(module: fx.GraphModule) -> tuple[Tensor, Tensor]:
    with qnnpack_engine(), torch.inference_mode():
        sent = module(batch())
    return sent.mean((0, 2, 3)), sent.std((0, 2, 3))


@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
def test_mean_and_deviation_come_near_those_of_fp32(weights: Weights) -> None:
    mean, deviation = moments(split("mobilenet_v3_small", "features.2").edge)
    errors = []
    for module in edges(weights):
        own_mean, own_deviation = moments(module)
        errors.append(
            (
                float(((own_mean - mean) / deviation).abs().mean()),
                float((own_deviation / deviation).log().abs().mean()),
            )
        )
    (plain_shift, plain_spread), (shift, spread) = errors
    assert shift < 0.5 * plain_shift
    assert spread < 0.7 * plain_spread


def quantized_layers(module: fx.GraphModule) -> dict[str, Any]:
    return {name: m for name, m in module.named_modules() if hasattr(m, "_weight_bias")}


def test_with_per_channel_weights_no_stored_integer_changes() -> None:
    plain, estimated = (quantized_layers(module) for module in edges("per-channel"))
    normalized = {str(n.target) for n in normalized_layers(split_edge())}
    assert 0 < len(normalized) < len(plain)  # the two layers of a squeeze-excite have no BatchNorm
    for name, layer in plain.items():
        weight, bias = layer._weight_bias()
        new_weight, new_bias = estimated[name]._weight_bias()
        assert torch.equal(weight.int_repr(), new_weight.int_repr())
        same_scales = torch.equal(weight.q_per_channel_scales(), new_weight.q_per_channel_scales())
        assert same_scales == torch.equal(bias, new_bias) == (name not in normalized)


def split_edge() -> fx.GraphModule:
    return split("mobilenet_v3_small", "features.2").edge


def test_a_silent_channel_is_only_shifted() -> None:
    edge, _ = edges("per-channel")
    (name, layer), *_ = quantized_layers(edge).items()
    weight, _bias = layer._weight_bias()
    channels = weight.shape[0]
    silent = Moments(mean=torch.full((channels,), 0.25), deviation=torch.zeros(channels))
    with qnnpack_engine():
        reestimate(edge, {name: silent}, batch())
    new_weight, _bias = layer._weight_bias()
    assert torch.equal(weight.q_per_channel_scales(), new_weight.q_per_channel_scales())


def test_the_same_images_give_the_same_edge() -> None:
    first, second = edges("per-channel")[1], edges("per-channel")[1]
    with qnnpack_engine(), torch.inference_mode():
        assert torch.equal(first(batch()), second(batch()))
