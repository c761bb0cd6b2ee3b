"""Each operator alone in a runtime: none differs much here, and a wrong one is named."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from baseline.datasets import ImageSplits
from baseline.preprocessing import preprocess
from export.bundle import Bundle
from export.layers import LayerGraph
from records.manifest import Artifact
from records.progress import silent
from records.recipe import CheckRecipe
from runtime_check import operator_parity
from runtime_check.check import check_bundle
from runtime_check.operator_parity import lone_layers, operator_differences
from runtime_check.runtime import LoadedArtifact
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from torch import nn

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

Exported = tuple[Bundle, ImageSplits]
WRONG = "block1.pointwise"


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Exported:
    folder = tmp_path_factory.mktemp("operators")
    return tiny_bundle(folder, tiny_model, tiny_images, 8, ("ptl", "onnx", "tflite"))


def images(exported: Exported) -> npt.NDArray[np.float32]:
    bundle, splits = exported
    return preprocess(splits.victim.images[:16], bundle.manifest.preprocessing)


def wrong_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write one layer with its weights negated, and leave the others as they are."""
    load = operator_parity._load

    def broken(runtime: object, graph: LayerGraph, artifact: Artifact) -> LoadedArtifact:
        last = graph.layers[-1]
        if WRONG in last.operator and last.weights is not None:
            negated = dataclasses.replace(last.weights, values=-last.weights.values)
            changed = dataclasses.replace(last, weights=negated)
            graph = dataclasses.replace(graph, layers=(*graph.layers[:-1], changed))
        return load(runtime, graph, artifact)  # type: ignore[arg-type]

    monkeypatch.setattr(operator_parity, "_load", broken)


def test_every_operator_that_computes_is_run_on_eagers_own_inputs(exported: Exported) -> None:
    lone = lone_layers(exported[0], images(exported))
    kinds = {one.layer.kind for one in lone}
    assert {"quantize", "convolution", "hardswish", "hardsigmoid", "mul", "add", "mean"} <= kinds
    for one in lone:
        assert one.expected.dtype == np.uint8
        assert one.inputs.shape == (16, *one.graph.image.shape)
        assert one.expected.shape == (16, *one.graph.boundary.shape)


def test_no_operator_of_an_honest_edge_is_off_by_more_than_a_step(exported: Exported) -> None:
    found = operator_differences(exported[0], "litert", images(exported), silent)
    assert all(one.max_lsb == 1 for one in found), found
    assert all(one.differing / one.values < 0.01 for one in found), found


def test_a_wrong_operator_comes_first(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_weights(monkeypatch)
    found = operator_differences(exported[0], "litert", images(exported), silent)
    assert WRONG in found[0].operator
    assert found[0].max_lsb > 10
    assert found[0].differing / found[0].values > 0.5


def test_the_check_names_operators_behind_values_that_are_far_off(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, splits = exported
    wrong_weights(monkeypatch)
    assert check_bundle(bundle, splits.victim).operators == ()
    monkeypatch.setattr("runtime_check.check._NEAR_LSB", -1)
    record = check_bundle(bundle, splits.victim)
    assert record.passed
    assert WRONG in record.operators[0].operator


def test_the_check_names_operators_where_the_gate_is_missed(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, splits = exported
    assert check_bundle(bundle, splits.victim).operators == ()
    wrong_weights(monkeypatch)
    monkeypatch.setattr("runtime_check.check.artifact_gates", missed_gates)
    named = check_bundle(bundle, splits.victim).operators
    assert WRONG in named[0].operator
    assert {one.runtime for one in named} == {"litert"}


def missed_gates(row: object, recipe: CheckRecipe, bits: int) -> object:
    from runtime_check.gates import artifact_gates

    strict = msgspec.structs.replace(recipe, share_within_2_lsb=1.0)
    for gate in artifact_gates(row, strict, bits):  # type: ignore[arg-type]
        if gate.name == "share_within_2_lsb":
            gate = msgspec.structs.replace(gate, passed=False)
        yield gate
