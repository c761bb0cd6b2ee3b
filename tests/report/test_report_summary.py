from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from records import attack, bench
from report.summary import summary_notes, summary_table
from tests.report.sample_run import INT8, Sample, write_sample_run


def printed(folder: Path, sample: Sample | None = None, width: int = 100) -> str:
    write_sample_run(folder, sample)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(folder))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_split_and_artifact_has_its_figures(tmp_path: Path) -> None:
    text = printed(tmp_path, Sample(splits=("features.3", "avgpool")))
    for name in ("features.3", "avgpool"):
        assert name in text
    for name in INT8:
        assert text.count(f" {name} ") == 2
    assert "19.93 → 16.20 → 19.83" in text
    assert "floor 12.20" in text
    assert "1.23×" in text
    assert "no gain" in text
    assert "53.9%" in text
    assert "−1.9" in text
    assert text.count("DENIED") == 8


@pytest.mark.parametrize("verdict", ["HOLDS", "DENIED", "INCONCLUSIVE"])
def test_it_fits_a_hundred_columns_whole(tmp_path: Path, verdict: attack.Verdict) -> None:
    text = printed(tmp_path, Sample(verdict=verdict, valid_bench=False))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count(verdict) == 4
    assert text.count("INVALID") == 4
    assert "…" not in text


@pytest.mark.parametrize(
    ("speed", "word"),
    [("faster", "faster"), ("slower", "slower"), ("no speed-up shown", "no gain")],
)
def test_the_speed_verdict_is_a_word(tmp_path: Path, speed: bench.SpeedVerdict, word: str) -> None:
    assert printed(tmp_path, Sample(speed=speed)).count(word) == 4


@pytest.mark.parametrize("stage", ["train", "bundle", "check", "bench", "attack"])
def test_a_missing_stage_shows_a_dash(tmp_path: Path, stage: str) -> None:
    text = printed(tmp_path, Sample(leave_out=frozenset({stage})))
    assert "edge_int8_wire_onnx" in text
    assert ("not run" in text) == (stage == "attack")
    assert ("–" in text) == (stage != "train")


def test_a_hostile_split_is_not_read_as_markup(tmp_path: Path) -> None:
    write_sample_run(tmp_path)
    (tmp_path / "features.3").rename(tmp_path / "[red]evil")
    console = Console(file=io.StringIO(), width=100)
    console.print(summary_table(tmp_path))
    assert isinstance(console.file, io.StringIO)
    assert "[red]evil" in console.file.getvalue()


def test_a_note_of_the_attack_is_said_with_its_split(tmp_path: Path) -> None:
    write_sample_run(tmp_path / "quiet", Sample())
    assert summary_notes(tmp_path / "quiet") == ()
    write_sample_run(tmp_path / "noted", Sample(note="FP32 leaks little"))
    assert summary_notes(tmp_path / "noted") == ("features.3: FP32 leaks little",)
