from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.stage import Stage, do_stage, finished_record
from records.errors import RecordError


def _stage(run: Path, inputs: dict[str, object], *, passed: bool = True) -> Stage:
    def work() -> bool:
        (run / "out").mkdir(exist_ok=True)
        (run / "out" / "a.txt").write_text(str(inputs))
        return passed

    return Stage(name="demo/make", inputs=inputs, outputs=("out",), work=work)


def test_a_done_stage_is_recognised(tmp_path: Path) -> None:
    stage = _stage(tmp_path, {"x": 1})
    assert finished_record(stage, tmp_path) is None
    record = do_stage(stage, tmp_path)
    assert finished_record(stage, tmp_path) == record
    assert list(record.outputs) == ["out/a.txt"]


def test_other_inputs_do_it_again(tmp_path: Path) -> None:
    do_stage(_stage(tmp_path, {"x": 1}), tmp_path)
    assert finished_record(_stage(tmp_path, {"x": 2}), tmp_path) is None


def test_a_touched_or_extra_or_missing_output_does_it_again(tmp_path: Path) -> None:
    stage = _stage(tmp_path, {"x": 1})
    do_stage(stage, tmp_path)
    (tmp_path / "out" / "b.txt").write_text("extra")
    assert finished_record(stage, tmp_path) is None
    (tmp_path / "out" / "b.txt").unlink()
    assert finished_record(stage, tmp_path) is not None
    (tmp_path / "out" / "a.txt").write_text("changed")
    assert finished_record(stage, tmp_path) is None
    (tmp_path / "out" / "a.txt").unlink()
    assert finished_record(stage, tmp_path) is None


def test_a_failed_gate_is_remembered(tmp_path: Path) -> None:
    stage = _stage(tmp_path, {"x": 1}, passed=False)
    do_stage(stage, tmp_path)
    found = finished_record(stage, tmp_path)
    assert found is not None
    assert not found.gates_passed


def test_a_stage_that_dies_is_not_done(tmp_path: Path) -> None:
    def die() -> bool:
        raise RuntimeError("killed")

    stage = _stage(tmp_path, {"x": 1})
    do_stage(stage, tmp_path)
    with pytest.raises(RuntimeError):
        do_stage(replace(stage, work=die), tmp_path)
    assert finished_record(stage, tmp_path) is None


def test_a_stage_without_its_output_is_refused(tmp_path: Path) -> None:
    stage = Stage(name="lazy", inputs={}, outputs=("never",), work=lambda: True)
    with pytest.raises(RecordError, match="without writing never"):
        do_stage(stage, tmp_path)


def test_a_half_written_record_is_no_record(tmp_path: Path) -> None:
    stage = _stage(tmp_path, {"x": 1})
    do_stage(stage, tmp_path)
    path = tmp_path / "stages" / "demo.make.json"
    path.write_bytes(path.read_bytes()[:40])
    assert finished_record(stage, tmp_path) is None
