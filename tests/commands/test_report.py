from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from commands.report import command
from records.errors import InputError, OverwriteError, UnsupportedHereError
from report.write import write_report
from tests.report.sample_run import Sample, write_sample_run


def test_it_writes_both_files_and_says_where(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run")
    result = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert result.exit_code == 0
    assert (run / "report" / "report.html").stat().st_size > 10_000
    assert (run / "report" / "report.md").stat().st_size > 1_000
    assert "report.html" in result.stdout


def test_out_and_json(tmp_path: Path) -> None:
    run, out = write_sample_run(tmp_path / "run"), tmp_path / "out"
    result = CliRunner().invoke(
        command, [str(run), "--out", str(out), "--json"], catch_exceptions=False
    )
    assert json.loads(result.stdout) == {
        "html": str(out / "report.html"),
        "markdown": str(out / "report.md"),
    }


def test_an_existing_report_needs_force(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path, Sample(leave_out=frozenset({"attack", "bench"})))
    CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    with pytest.raises(OverwriteError):
        CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    forced = CliRunner().invoke(command, [str(run), "--force"], catch_exceptions=False)
    assert forced.exit_code == 0


def test_a_missing_run_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        CliRunner().invoke(command, [str(tmp_path / "none")], catch_exceptions=False)


def test_without_the_extra_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.export_extra.find_spec", lambda name: None)
    with pytest.raises(UnsupportedHereError, match=r"jinja2, matplotlib.*pip install"):
        CliRunner().invoke(command, [str(tmp_path)], catch_exceptions=False)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_the_library_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    run = write_sample_run(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnsupportedHereError, match=package):
        write_report(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
