"""What is made of a trace of calls; the trace itself is checked under the emulator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import node_instructions
from benchmarks.instructions import INFERENCES
from benchmarks.node_instructions import by_operator, count_nodes, main, median_run, table
from export.bundle import Bundle
from records import codec
from records.errors import ArtifactError, BundleError, UnsupportedHereError
from records.node_instructions import NodeInstructionRecord, NodeInstructions
from runtime_check.targets import open_target
from runtime_check.targets.call_trace import Call, TracedRun
from runtime_check.targets.executed_graph import executed_nodes
from tests.benchmarks.toy_bundle import toy_bundle
from tests.runtime_check.targets.here import Here, marks

NAME = "edge_int8_wire_onnx"
#: Before the first node and after the last one, and between two.
AROUND, BETWEEN = 5000, 10


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy" / "bundle")


@pytest.fixture
def operators(bundle: Bundle) -> list[str]:
    """Return the operators that this machine executes."""
    artifact = bundle.artifact(NAME)
    with Here() as here:
        mode = here.modes(artifact)[0]
        nodes = executed_nodes(here.session, bundle.read(artifact), artifact, mode)
    return [node.operator for node in nodes]


def trace(operators: Sequence[str], costs: Sequence[int]) -> str:
    """Return the trace of inferences whose nodes cost so much; each is one longer at its end."""
    targets = {
        operator: 0x1000 + number for number, operator in enumerate(dict.fromkeys(operators))
    }
    clock, lines = 10**6, [f"mark 0 {10**6}"]
    for number in range(INFERENCES):
        clock += AROUND // 2 - BETWEEN
        for operator, cost in zip(operators, costs, strict=True):
            clock += BETWEEN + cost
            lines.append(f"call 77 {targets[operator]:x} {clock - cost} {clock}")
        clock += AROUND // 2 + number
        lines.append(f"mark {number + 1} {clock}")
    return "\n".join(lines) + "\n"


def counted(instructions: int) -> tuple[str, ...]:
    return (marks(*(k * instructions for k in range(INFERENCES + 1))),)


def here(operators: Sequence[str], costs: Sequence[int], whole: int | None = None) -> Here:
    expected = sum(costs) + (len(costs) - 1) * BETWEEN + AROUND
    return Here(counted=counted(whole or expected), traced=trace(operators, costs))


def costs_of(operators: Sequence[str]) -> list[int]:
    return [100_000 + 1000 * number for number in range(len(operators))]


def test_the_parts_are_the_whole(bundle: Bundle, operators: list[str]) -> None:
    costs = costs_of(operators)
    with here(operators, costs) as target:
        record = count_nodes(bundle, target, NAME)
    assert [node.operator for node in record.nodes] == operators
    assert [node.instructions for node in record.nodes] == costs
    assert record.between == BETWEEN * (len(costs) - 1)
    # The median inference, of which the last instructions grow by one each.
    assert record.around == AROUND + INFERENCES // 2
    assert record.whole == sum(costs) + record.between + record.around
    assert sum(group.instructions for group in record.operators) == sum(costs)
    assert record.nodes[-1].tensor == "boundary"
    assert "not cycles" in record.note


def test_another_whole_is_refused(bundle: Bundle, operators: list[str]) -> None:
    costs = costs_of(operators)
    whole = sum(costs) + (len(costs) - 1) * BETWEEN + AROUND
    with here(operators, costs, round(whole * 1.0008)) as target:
        assert count_nodes(bundle, target, NAME).counted == round(whole * 1.0008)
    with (
        here(operators, costs, round(whole * 1.0012)) as target,
        pytest.raises(UnsupportedHereError, match=r"0\.12% apart, where 0\.1%"),
    ):
        count_nodes(bundle, target, NAME)


def test_a_trace_without_the_kernels_is_refused(bundle: Bundle, operators: list[str]) -> None:
    one = here(["Same"] * len(operators), costs_of(operators))
    with one as target, pytest.raises(UnsupportedHereError, match="once for each of the"):
        count_nodes(bundle, target, NAME)
    cut = Here(counted=counted(1000), traced=trace(operators, costs_of(operators))[:-20])
    with cut as target, pytest.raises(ArtifactError, match="trace of calls"):
        count_nodes(bundle, target, NAME)


def test_only_onnx_that_runs_there_is_taken(bundle: Bundle) -> None:
    with Here(("onnx",)) as target, pytest.raises(UnsupportedHereError, match="no onnx here"):
        count_nodes(bundle, target, NAME)
    with Here() as target, pytest.raises(BundleError, match="no artifact"):
        count_nodes(bundle, target, "edge_int8_tflite")


def node(operator: str, instructions: int) -> NodeInstructions:
    return NodeInstructions(
        operator=operator,
        output="n1",
        tensor=None,
        dtype="uint8",
        shape=(1, 2),
        instructions=instructions,
    )


def test_operators_are_grouped_the_largest_first() -> None:
    nodes = [node("Clip", 10), node("Conv", 25), node("Clip", 30), node("Add", 25)]
    found = [(g.operator, g.nodes, g.instructions, g.share) for g in by_operator(nodes, 100)]
    assert found == [("Clip", 2, 40, 0.4), ("Add", 1, 25, 0.25), ("Conv", 1, 25, 0.25)]


def test_the_run_in_the_middle_is_taken() -> None:
    runs = [TracedRun(0, end, {}) for end in (30, 10, 40, 20)]
    kernels = [(Call(1, 0, k),) for k in range(4)]
    assert median_run(runs, kernels) == (runs[3], kernels[3])


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, operators: list[str]) -> Bundle:
    """Put this machine in the place of the emulated one."""
    costs = costs_of(operators)
    monkeypatch.setattr(open_target, "EmulatedTarget", lambda name, root: here(operators, costs))
    monkeypatch.setattr(node_instructions, "load_bundle", lambda path: bundle)
    return bundle


def test_the_command(emulated: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(emulated.folder), "--target", "cortex-a72", "--artifact", NAME]
    path = tmp_path / "nodes.json"
    assert main([*command, "--out", str(path)]) == 0
    record = codec.read(path, NodeInstructionRecord)
    shown = capsys.readouterr().out
    assert shown == table(record) + "\n"
    assert "instructions are not cycles" in shown
    lines = shown.splitlines()
    last = record.nodes[-1]
    assert f"{last.instructions:,}" in next(line for line in lines if " boundary " in line)
    assert len([line for line in lines if "executor" in line]) == 1
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [n["instructions"] for n in printed["nodes"]] == [n.instructions for n in record.nodes]
    assert main([*command, "--out", str(path)]) == 1
    assert "already exists" in capsys.readouterr().err


def test_the_host_is_refused(emulated: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(emulated.folder), "--target", "host"]) == 3
    assert "emulated targets only" in capsys.readouterr().err
