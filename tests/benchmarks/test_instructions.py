"""What is made of instruction counts; the counts themselves are checked under the emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.instructions import INFERENCES, count_instructions
from export.bundle import Bundle
from records import codec
from records.errors import ArtifactError, UnsupportedHereError
from records.instructions import InstructionRecord
from runtime_check.targets import open_target
from tests.benchmarks.toy_bundle import toy_bundle
from tests.commands.exit_codes import exit_code_of
from tests.runtime_check.targets.here import Here, marks


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy" / "bundle")


def counter_file(*each: int) -> str:
    """Return the marks of artifacts whose every inference has ``each`` instructions in turn."""
    totals = []
    clock = 1000
    for instructions in each:
        # Between two artifacts a lot happens that must not be counted.
        clock += 1_000_000
        totals += [clock + k * instructions for k in range(INFERENCES + 1)]
        clock = totals[-1]
    return marks(*totals)


def processes(*runs: str, subjects: int = 4) -> tuple[str, ...]:
    """Return a counter file for every process: in each run, one for each subject."""
    return tuple(run for run in runs for _ in range(subjects))


def test_counts_ratios_and_spread(bundle: Bundle) -> None:
    with Here(
        counted=processes(counter_file(4000, 1000, 1200, 7), counter_file(4000, 1001, 1200, 9))
    ) as t:
        record = count_instructions(bundle, t)
    counted = {one.artifact: one for one in record.artifacts}
    assert [run.all for run in counted["edge_int8_onnx"].runs] == [1000, 1001]
    assert counted["edge_fp32_onnx"].mean.all == 4000
    assert counted["edge_int8_onnx"].spread == pytest.approx(0.001)
    assert record.call_overhead is not None
    assert record.call_overhead.all == 8
    assert {r.int8: r.ratio for r in record.ratios} == {
        "edge_int8_onnx": pytest.approx(0.25, abs=1e-3),
        "edge_int8_wire_onnx": 0.3,
    }
    assert record.passed
    assert "not cycles" in record.note


def test_runs_that_are_apart_do_not_pass(bundle: Bundle) -> None:
    with Here(
        counted=processes(counter_file(4000, 1000, 1200, 7), counter_file(4000, 1002, 1200, 7))
    ) as t:
        record = count_instructions(bundle, t)
    assert not record.passed
    assert [one.artifact for one in record.artifacts if not one.repeatable] == ["edge_int8_onnx"]


def test_a_counter_file_that_was_cut_off_is_refused(bundle: Bundle) -> None:
    cut = Here(counted=processes(counter_file(4000, 1000)))
    with cut as target, pytest.raises(ArtifactError, match="cut off"):
        count_instructions(bundle, target)


def test_nothing_to_count_is_unsupported(bundle: Bundle) -> None:
    with Here(("onnx",)) as target, pytest.raises(UnsupportedHereError, match="no onnx here"):
        count_instructions(bundle, target)
    with Here() as target, pytest.raises(UnsupportedHereError, match="not asked for"):
        count_instructions(bundle, target, runtimes=("lite",))


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return exit_code_of(monkeypatch, "bench", *arguments)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> Bundle:
    """Put this machine in the place of the emulated one."""

    def here(name: str, root: Path) -> Here:
        return Here(
            counted=processes(counter_file(4000, 1000, 1200, 7), counter_file(4000, 1003, 1200, 7))
        )

    monkeypatch.setattr(open_target, "EmulatedTarget", here)
    monkeypatch.setattr("export.bundle.load_bundle", lambda path: bundle)
    return bundle


def test_the_command_prints_no_latency_and_exits_2_when_runs_are_apart(
    emulated: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, emulated.folder, "--target", "cortex-a72") == 2
    shown = capsys.readouterr()
    assert "instructions are not cycles" in shown.out
    assert " ms" not in shown.out
    assert "p50" not in shown.out
    assert "edge_int8_onnx are more than 0.1% apart" in shown.err
    path = emulated.folder.parent / "bench-cortex-a72.json"
    record = codec.read(path, InstructionRecord)
    assert not record.passed
    assert "latency" not in record.__struct_fields__
    assert exit_code(monkeypatch, emulated.folder, "--target", "cortex-a72") == 1
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--threads", "2"), ("--batch-size", "4")])
def test_what_belongs_to_latency_is_refused(
    emulated: Bundle,
    option: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(monkeypatch, emulated.folder, "--target", "cortex-a72", *option) == 1
    assert "no latency" in capsys.readouterr().err
