from __future__ import annotations

from pathlib import Path

import pytest

from report.claims import (
    accuracy_findings,
    claims_remarks,
    claims_table,
    privacy_findings,
    size_findings,
)
from report.load import RunRecords, load_run
from tests.report.sample_run import EDGES, INT8, Sample, write_sample_run


def run_of(folder: Path, sample: Sample | None = None) -> RunRecords:
    return load_run(write_sample_run(folder, sample))


def row_of(run: RunRecords, claim: str) -> list[str]:
    (row,) = (r for r in claims_table(run).rows if r[0].text == claim)
    return [cell.text.replace("\u00a0", " ") for cell in row]


def test_weights_and_files_are_judged_apart(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    weights = {f.artifact: f for f in size_findings(run, weights=True)}
    files = {f.artifact: f for f in size_findings(run, weights=False)}
    sizes = {name: (size, held) for name, *_, size, held in EDGES}
    for name in INT8:
        full = "edge_fp32_lite" if name.endswith("lite") else "edge_fp32_onnx"
        assert files[name].value == pytest.approx(sizes[full][0] / sizes[name][0])
        assert weights[name].value == pytest.approx(sizes[full][1] / sizes[name][1])
    assert weights["edge_int8_onnx"].answer == "holds"
    assert weights["edge_int8_lite"].answer == "fails"
    assert {f.answer for f in files.values()} == {"fails"}


def test_the_size_row_says_where_it_holds_and_where_not(tmp_path: Path) -> None:
    assert row_of(run_of(tmp_path), "4× smaller: weights") == [
        "4× smaller: weights",
        "features.3",
        "3.15× to 3.85×",
        "edge_int8_onnx, edge_int8_wire_onnx",
        "edge_int8_lite, edge_int8_wire_lite",
        "–",
    ]


@pytest.mark.parametrize(
    ("drop", "answer"),
    [
        ((0.2, -0.1, 0.99), "holds"),
        ((0.9, 0.4, 1.2), "open"),
        ((0.9, 0.4, 1.0), "open"),
        ((1.9, 1.0, 3.0), "fails"),
    ],
)
def test_accuracy_is_judged_by_its_interval(
    tmp_path: Path, drop: tuple[float, float, float], answer: str
) -> None:
    findings = accuracy_findings(run_of(tmp_path, Sample(drop_points=drop)))
    assert [f.artifact for f in findings] == list(INT8)
    assert {f.answer for f in findings} == {answer}


def test_a_network_that_guesses_has_no_accuracy_to_lose(tmp_path: Path) -> None:
    run = run_of(tmp_path, Sample(top1=0.26, drop_points=(0.0, -0.1, 0.1)))
    assert {f.answer for f in accuracy_findings(run)} == {"open"}
    assert any("guessing" in p.text for p in claims_remarks(run))
    assert not any("guessing" in p.text for p in claims_remarks(run_of(tmp_path / "b")))


@pytest.mark.parametrize(("top1", "answer"), [(0.26, "open"), (0.558, "holds")])
def test_so_has_one_that_was_not_trained_here(tmp_path: Path, top1: float, answer: str) -> None:
    left_out = frozenset({"train"})
    run = run_of(tmp_path, Sample(top1=top1, drop_points=(0.0, -0.1, 0.1), leave_out=left_out))
    assert run.training is None
    assert {f.answer for f in accuracy_findings(run)} == {answer}


def test_privacy_follows_the_verdicts(tmp_path: Path) -> None:
    assert {f.answer for f in privacy_findings(run_of(tmp_path))} == {"fails"}
    row = row_of(run_of(tmp_path / "b", Sample(verdict="HOLDS")), "Harder to invert")
    assert row[3:] == ["all 4 artifacts", "–", "–"]


def test_the_whole_network_is_not_the_edge(tmp_path: Path) -> None:
    remarks = " ".join(p.text for p in claims_remarks(run_of(tmp_path))).replace("\u00a0", " ")
    assert "6.11 MB of FP32 weights" in remarks  # 38,912 + 6,073,512 bytes
    assert "up to features.3, 38.9 kB of them, 10.1 kB in INT8" in remarks


def test_distribution_shift_is_called_so_only_where_retraining_regains(tmp_path: Path) -> None:
    shifted = " ".join(p.text for p in claims_remarks(run_of(tmp_path))).replace("\u00a0", " ")
    assert "stays 3.73 dB below" in shifted
    assert "stays 0.10 dB below: the 3.63 dB between them are distribution shift" in shifted
    same = claims_remarks(run_of(tmp_path / "b", Sample(strongest="A0")))
    text = " ".join(p.text for p in same)
    assert "gains the attacker next to nothing" in text
    assert "distribution shift" not in text


def test_stages_that_were_not_run_leave_their_claims_open(tmp_path: Path) -> None:
    sample = Sample(leave_out=frozenset({"bundle", "check", "bench"}))
    run = run_of(tmp_path, sample)
    assert row_of(run, "4× smaller: file")[2:] == ["not run", "–", "–", "–"]
    assert row_of(run, "Less than 1 % of accuracy lost")[2] == "not run"
    assert row_of(run, "Harder to invert")[2] == "0.10 dB"
