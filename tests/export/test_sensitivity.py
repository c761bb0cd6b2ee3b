"""The sweep names the layer that was made bad, and leaves the graph as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from baseline.split import split_network
from export.observers import tensor_name
from export.quantize import calibrated_edge, quantize_edge
from export.sensitivity import measure_sensitivity
from records.errors import ExportError
from records.recipe import ExportRecipe
from records.sensitivity import AnswerLoss, LayerSensitivity
from tests.export.edges import batch, network

RECIPE = ExportRecipe(activation_observer="min-max")


def sweep(
    model: nn.Module, cut: str, recipe: ExportRecipe = RECIPE
) -> tuple[AnswerLoss, tuple[LayerSensitivity, ...]]:
    halves = split_network(model, cut)
    prepared = calibrated_edge(halves.edge, [batch()], recipe, halves.server)
    return measure_sensitivity(prepared, halves.server, batch())


def test_the_layers_are_those_that_quantization_quantizes() -> None:
    _, layers = sweep(network("tiny"), "pool")
    halves = split_network(network("tiny"), "pool")
    tensors = quantize_edge(halves.edge, [batch()], RECIPE).qparams
    assert len({layer.name for layer in layers}) == len(layers)
    grids = {(layer.scale, layer.zero_point) for layer in layers}
    assert {(q.scale, q.zero_point) for q in tensors} <= {
        (float(torch.tensor(s, dtype=torch.float32)), z) for s, z in grids
    }
    kinds = {layer.name: layer.kind for layer in layers}
    assert (kinds["x"], kinds["stem.0"], kinds["add"]) == ("input", "module", "function")
    weighted = {layer.name for layer in layers if layer.quantizes_weights}
    assert {"stem.0", "block1.depthwise", "head.0"} <= weighted
    assert not weighted & {"x", "add", "block1.act"}


def test_the_worst_comes_first_and_all_at_once_is_worse_than_nothing() -> None:
    everything, layers = sweep(network("tiny"), "pool")
    losses = [layer.loss.kl_nats for layer in layers]
    assert losses == sorted(losses, reverse=True)
    assert everything.kl_nats > 0
    assert all(layer.sqnr_db is None or layer.sqnr_db > 10 for layer in layers)


def test_a_tensor_with_a_bad_range_is_the_culprit_and_no_other_gets_worse() -> None:
    halves = split_network(network("tiny"), "classifier")
    prepared = calibrated_edge(halves.edge, [batch()], RECIPE, halves.server)
    plain = {n.name: n for n in measure_sensitivity(prepared, halves.server, batch())[1]}
    observed = {
        tensor_name(n.all_input_nodes[0]): n
        for n in prepared.graph.nodes
        if "activation_post_process" in str(n.target)
    }
    watcher = str(observed["block2.pointwise"].target)
    prepared.get_submodule(watcher).choose(-200.0, 200.0)  # type: ignore[operator]
    _, layers = measure_sensitivity(prepared, halves.server, batch())
    assert layers[0].name == "block2.pointwise"
    assert layers[0].loss.kl_nats > 10 * plain["block2.pointwise"].loss.kl_nats
    assert (layers[0].sqnr_db or 0.0) < (plain["block2.pointwise"].sqnr_db or 0.0) - 20
    rest = {n.name: n for n in layers[1:]}
    assert rest == {name: n for name, n in plain.items() if name != "block2.pointwise"}


def test_a_float_layer_is_out_of_the_sweep_and_the_rest_gets_better() -> None:
    everything, layers = sweep(network("tiny"), "pool")
    recipe = ExportRecipe(activation_observer="min-max", float_layers=("stem", "block1", "block2"))
    better, fewer = sweep(network("tiny"), "pool", recipe)
    gone = {layer.name for layer in layers} - {layer.name for layer in fewer}
    assert {"block1.depthwise", "block2.depthwise"} <= gone
    # What leaves the float layers is quantized for the layer after them; their weights are not.
    (end,) = [layer for layer in fewer if layer.name == "block2.pointwise"]
    assert not end.quantizes_weights
    assert better.kl_nats < everything.kl_nats


def test_the_graph_is_left_as_it_was() -> None:
    halves = split_network(network("tiny"), "pool")
    prepared = calibrated_edge(halves.edge, [batch()], RECIPE, halves.server)
    before = {key: value.clone() for key, value in prepared.state_dict().items()}
    steps: list[Any] = []
    first = measure_sensitivity(
        prepared, halves.server, batch(), progress=lambda *step: steps.append(step)
    )
    assert steps[-1] == ("sensitivity", len(first[1]), len(first[1]))
    assert all(torch.equal(v, before[k]) for k, v in prepared.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(prepared(batch()), halves.edge(batch()), rtol=1e-4, atol=1e-5)
    assert measure_sensitivity(prepared, halves.server, batch()) == first


def test_an_edge_without_observers_is_refused() -> None:
    halves = split_network(network("tiny"), "pool")
    with pytest.raises(ExportError, match="nothing of this edge is quantized"):
        measure_sensitivity(halves.edge, halves.server, batch())
