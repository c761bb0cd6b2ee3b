"""The page of a sweep, from its record alone: every figure is there, nothing is active."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from commands.report import command
from records import codec
from records.sweep import Sweep
from report import plots
from report.document import Gallery, Table
from report.render import render_html, render_markdown
from report.sweep import sweep_document
from report.write import write_report
from tests.report.sample_sweep import sample_sweep, write_sample_sweep


def _tables(sweep: Sweep) -> dict[str, Table]:
    blocks = [b for s in sweep_document(sweep).sections for b in s.blocks]
    return {b.caption: b for b in blocks if isinstance(b, Table)}


def test_the_pareto_table_holds_every_candidate_with_its_figures() -> None:
    rows = _tables(sample_sweep())["What each point really sends, worst attacker"].rows
    assert len(rows) == 6
    last = [cell.text.replace("\u00a0", " ") for cell in rows[-1]]
    assert last == [
        "features.3",
        "2",
        "edge_int8_wire_onnx",
        "3.25 points [2.75, 3.75]",
        "4.12 dB",
        "adaptive A1",
        "384 B",
        "32.7 kB",
        "11.4 kB",
        "0.500 ms",
        "DENIED",
        "front",
    ]
    assert [row[-1].text for row in rows[:-1]] == ["–"] * 5


def test_an_invalid_latency_is_never_quoted() -> None:
    sweep = sample_sweep(valid=False)
    html = render_html(sweep_document(sweep))
    assert "0.500" not in html
    assert html.count("INVALID") >= 8
    assert "Not measured" in render_html(sweep_document(sample_sweep(latency=False)))


def test_a_failed_gate_is_shown_with_what_was_measured() -> None:
    page = render_markdown(sweep_document(sample_sweep(failed=True)))
    assert "Gates failed: ceiling" in page
    assert "attack: ceiling" in page
    assert "12.5" in page
    assert "Every control" not in page
    assert "Every control" in render_markdown(sweep_document(sample_sweep()))


def test_several_seeds_are_shown_as_a_range() -> None:
    page = render_markdown(sweep_document(sample_sweep())).replace("\u00a0", " ")
    assert r"24.50 dB \[24.25, 24.75\] dB" in page
    assert "attacker seeds 0, 1" in page


def test_both_plots_are_drawn_with_labelled_points() -> None:
    galleries = [
        b
        for s in sweep_document(sample_sweep()).sections
        for b in s.blocks
        if isinstance(b, Gallery)
    ]
    (gallery,) = galleries
    assert len(gallery.pictures) == 2
    for picture in gallery.pictures:
        ElementTree.fromstring(picture.data)
        assert "features.3: 8 bits" in picture.alt
    assert "2 bits 384 and 4.12 dB" in gallery.pictures[1].alt


def test_a_plot_s_bytes_depend_on_its_figures_alone() -> None:
    def draw(leak: float) -> bytes:
        line = plots.Trade("a", [1.0, 2.0], [3.0, leak], ["8", "2"], [True, False])
        return plots.trade_off([line], "x", log_x=True)

    assert draw(1.0) == draw(1.0)
    assert draw(1.0) != draw(2.0)


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    written = write_report(write_sample_sweep(tmp_path), tmp_path / "report")
    html = written.html.read_text()
    assert "sample &lt;sweep&gt;" in html
    assert "<sweep>" not in html
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    again = write_report(tmp_path, tmp_path / "report", replace=True)
    assert again.html.read_text() == html


def test_report_copies_a_sweep_s_record_as_its_results(tmp_path: Path) -> None:
    folder = write_sample_sweep(tmp_path / "sweep")
    results = tmp_path / "results.json"
    done = CliRunner().invoke(
        command, [str(folder), "--results", str(results)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert codec.read(results, Sweep) == sample_sweep()


@pytest.mark.parametrize("count", [1, 9])
def test_any_number_of_splits_can_be_drawn(count: int) -> None:
    lines = [plots.Trade(f"s{i}", [float(i)], [1.0], ["8"], [True]) for i in range(count)]
    ElementTree.fromstring(plots.trade_off(lines, "x"))
