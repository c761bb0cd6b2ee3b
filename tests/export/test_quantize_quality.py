"""What Fisher weights, refined ranges and corrected biases are for: an answer nearer to FP32's."""

from __future__ import annotations

import copy
import functools

import msgspec
import pytest
import torch
from torch import Tensor, fx, nn

from baseline.split import SplitNetwork, split_network
from export.quantize import qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe
from tests.export.edges import batch, network

PLAIN = ExportRecipe(activation_observer="min-max")


@functools.cache
def _uneven() -> SplitNetwork:
    """Return a network one of whose first channels is loud, and hardly listened to."""
    model = copy.deepcopy(network("mobilenet_v3_small"))
    norm = model.get_submodule("features.0.1")
    reader = model.get_submodule("features.1.block.0.0")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(reader, nn.Conv2d)
    with torch.no_grad():
        norm.weight[3] *= 60
        norm.bias[3] *= 60
        reader.weight[3] /= 600
    return split_network(model, "features.1")


def _answers(halves: SplitNetwork, edge: fx.GraphModule) -> Tensor:
    with qnnpack_engine(), torch.inference_mode():
        answers: Tensor = halves.server(edge(batch())).log_softmax(1)
    return answers


def _divergence(recipe: ExportRecipe) -> float:
    halves = _uneven()
    edge = quantize_edge(halves.edge, [batch()], recipe, halves.server).float_boundary
    expected = _answers(halves, halves.edge)
    return float((expected.exp() * (expected - _answers(halves, edge))).sum(1).mean())


def test_fisher_weights_and_refined_ranges_bring_the_answer_nearer_to_fp32() -> None:
    plain = _divergence(PLAIN)
    fisher = _divergence(ExportRecipe(activation_observer="fisher"))
    refined = _divergence(msgspec.structs.replace(PLAIN, refined_tensors=6))
    assert fisher < 0.6 * plain
    assert refined < 0.6 * plain


def _boundary_bias(recipe: ExportRecipe) -> float:
    """Return the mean absolute shift of the boundary's channels, in FP32 standard deviations."""
    halves = split_network(network("mobilenet_v3_small"), "features.2")
    edge = quantize_edge(halves.edge, [batch()], recipe, halves.server).float_boundary
    with qnnpack_engine(), torch.inference_mode():
        expected, sent = halves.edge(batch()), edge(batch())
    shift = (sent - expected).mean((0, 2, 3)).abs()
    return float((shift / expected.std((0, 2, 3))).mean())


@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
def test_corrected_biases_take_back_the_mean_error(weights: str) -> None:
    recipe = msgspec.convert({"weight_observer": weights}, ExportRecipe)
    corrected = msgspec.structs.replace(recipe, bias_correction=True)
    assert _boundary_bias(corrected) < 0.7 * _boundary_bias(recipe)


def test_the_same_recipe_gives_the_same_scales() -> None:
    recipe = ExportRecipe(activation_observer="fisher", refined_tensors=3, bias_correction=True)
    halves = _uneven()
    first, second = (quantize_edge(halves.edge, [batch()], recipe, halves.server) for _ in range(2))
    assert first.qparams == second.qparams
    assert torch.equal(
        _answers(halves, first.float_boundary), _answers(halves, second.float_boundary)
    )
