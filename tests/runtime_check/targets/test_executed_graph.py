"""The nodes that ONNX Runtime executes, asked of the real one on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from onnx import helper

from export.bundle import Bundle
from records.errors import ArtifactError, UnsupportedHereError
from runtime_check.targets.executed_graph import ExecutedNode, executed_nodes, joined
from runtime_check.targets.session import RunnerSession
from tests.benchmarks.toy_bundle import CHANNELS, SIDE, toy_bundle
from tests.runtime_check.targets.here import session


@pytest.fixture
def runner() -> Iterator[RunnerSession]:
    one = session()
    yield one
    one.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy")


def answers(runner: RunnerSession, bundle: Bundle) -> tuple[bytes, bytes, bytes]:
    """Return an artifact as it was written, its optimized graph and its profile."""
    artifact = bundle.artifact("edge_int8_wire_onnx")
    data = bundle.read(artifact)
    request = {"mode": "default", "threads": 1, "input": "input", "output": "boundary"}
    request |= {"shape": [1, *artifact.input.shape]}
    graph, profile = (
        runner.ask(request | {"do": name}, data, largest=1 << 24)[1]
        for name in ("optimized", "profile")
    )
    return data, graph, profile


def test_the_nodes_are_the_optimized_ones(runner: RunnerSession, bundle: Bundle) -> None:
    artifact = bundle.artifact("edge_int8_wire_onnx")
    data = bundle.read(artifact)
    nodes = executed_nodes(runner, data, artifact, "default")
    operators = [node.operator for node in nodes]
    assert operators[0] == "QuantizeLinear"
    assert "com.microsoft.QLinearConv" in operators
    assert "DequantizeLinear" not in operators
    assert (nodes[-1].tensor, nodes[-1].dtype) == ("boundary", "uint8")
    assert nodes[-1].shape == (1, CHANNELS, SIDE, SIDE)


def test_the_order_is_that_of_execution(runner: RunnerSession, bundle: Bundle) -> None:
    data, graph, profile = answers(runner, bundle)
    model, events = onnx.load_model_from_string(graph), json.loads(profile)
    kernels = [event for event in events if event["cat"] == "Node"]
    for number, (node, event) in enumerate(zip(model.graph.node, kernels, strict=True)):
        node.name, event["name"] = f"k{number}", f"k{number}_kernel_time"
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(model.graph.node))
    expected = joined(data, graph, profile)
    assert len({node.output for node in expected}) == len(kernels) > 2
    assert joined(data, shuffled.SerializeToString(), json.dumps(events).encode()) == expected


def test_a_fused_node_has_the_name_of_the_tensor_that_it_computes() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["t1"], name="n7")
    quantize = helper.make_node("QuantizeLinear", ["t1", "s", "z"], ["block"], name="n8")
    fused = helper.make_node("QLinearConv", ["q"], ["n7"], name="n7_q", domain="com.microsoft")
    other = helper.make_node("HardSigmoid", ["n7"], ["_token_1"], name="h")

    def model(*nodes: onnx.NodeProto) -> bytes:
        graph = helper.make_graph(nodes, "g", [], [])
        return bytes(helper.make_model(graph).SerializeToString())

    shape = [{"uint8": [1, 4, 4, 8]}]
    events = [
        {"cat": "Node", "name": f"{name}_kernel_time", "args": {"op_name": operator} | more}
        for name, operator, more in (
            ("n7_q", "QLinearConv", {"output_type_shape": shape}),
            ("h", "HardSigmoid", {}),
        )
    ]
    found = joined(model(conv, quantize), model(fused, other), json.dumps(events).encode())
    assert found == (
        ExecutedNode("com.microsoft.QLinearConv", "n7", "block", "uint8", (1, 4, 4, 8)),
        ExecutedNode("HardSigmoid", "_token_1", None, "", ()),
    )


@pytest.mark.parametrize("change", ["fewer", "other"])
def test_a_profile_of_another_graph_is_refused(
    runner: RunnerSession, bundle: Bundle, change: str
) -> None:
    data, graph, profile = answers(runner, bundle)
    events: list[dict[str, Any]] = json.loads(profile)
    assert joined(data, graph, json.dumps(events).encode())
    kernels = [event for event in events if event["cat"] == "Node"]
    if change == "fewer":
        events.remove(kernels[0])
    else:
        kernels[0]["args"]["op_name"] = "Sinh"
    with pytest.raises(UnsupportedHereError, match="are not the same"):
        joined(data, graph, json.dumps(events).encode())


def test_answers_that_cannot_be_read_are_refused(runner: RunnerSession, bundle: Bundle) -> None:
    data, graph, profile = answers(runner, bundle)
    with pytest.raises(ArtifactError, match="profile cannot be read"):
        joined(data, graph, profile[: len(profile) // 2])
    with pytest.raises(ArtifactError, match="cannot be read as ONNX"):
        joined(data, b"no graph", profile)
    artifact = bundle.artifact("edge_fp32_onnx")
    renamed = msgspec.structs.replace(
        artifact, output=msgspec.structs.replace(artifact.output, name="other")
    )
    with pytest.raises(ArtifactError, match="on here: "):
        executed_nodes(runner, bundle.read(artifact), renamed, "default")
