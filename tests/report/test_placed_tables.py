from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from records import codec
from records.errors import InputError, RecordError
from records.results import ArtifactFigures, AttackFigures, Results, SplitFigures
from records.sweep import FailedGate
from report.curve_table import curve_markdown
from report.cuts_table import cuts_markdown, within_limits
from report.place_results import main, place_results, source_mark, table_of
from report.published import without_folders
from report.results_table import results_markdown
from tests.report.sample_sweep import sample_sweep


def _artifact(name: str, *, drop: tuple[float, float, float] | None, size: int) -> ArtifactFigures:
    return ArtifactFigures(
        name=name,
        file=f"{name}.onnx",
        precision="fp32" if "fp32" in name else "int8",
        boundary="float",
        weight_bytes=size,
        file_bytes=2 * size,
        top1=0.6,
        drop_points=drop,
        share_identical=None,
        share_within_1_lsb=None,
        max_lsb=None,
        speed=None,
        attack=None,
    )


def _results(drop: tuple[float, float, float], *splits: str) -> Results:
    return Results(
        recipe="cuts",
        data="npz",
        machine=None,
        whole_network_top1=0.6279,
        versions={},
        splits=tuple(
            SplitFigures(
                split=split,
                bundle_id="ab" * 32,
                boundary_shape=(4, 2, 2),
                wire_bytes=16,
                image_bytes=3072,
                margin_db=3.0,
                floor_db=None,
                ceiling_db=None,
                attacker_images=10,
                victims=10_000,
                attacker_seeds=(0,),
                bench_valid=None,
                verdict=None,
                artifacts=tuple(
                    _artifact(
                        name,
                        drop=drop if "int8" in name else None,
                        size=1000 if "int8" in name else 3900,
                    )
                    for name in (
                        "edge_fp32_lite",
                        "edge_int8_lite",
                        "edge_fp32_onnx",
                        "edge_int8_onnx",
                    )
                ),
            )
            for split in splits
        ),
    )


def test_cuts_say_what_was_needed_and_how_much_smaller() -> None:
    table = cuts_markdown(
        _results((0.3, -0.1, 0.7), "features.1", "features.2", "avgpool"),
        replace(
            _results((1.4, 0.9, 1.9), "features.1", "features.2"),
            splits=(
                *_results((1.0, 0.5, 1.5), "features.1").splits,
                *_results((1.4, 0.9, 1.9), "features.2").splits,
            ),
        ),
    )
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[4] for row in rows] == ["calibration", "training", "–"]
    assert "1.40 [0.90, 1.90]" in rows[1]
    assert "0.30 [-0.10, 0.70]" in rows[2]
    assert "1.0 kB (3.90×)" in rows[0]
    assert "whole network in FP32 62.79 %" in table


@pytest.mark.parametrize(
    ("drop", "within"),
    [((1.0, 0.5, 1.5), True), ((1.01, 0.5, 1.5), False), ((0.9, 0.5, 1.51), False), (None, False)],
)
def test_the_limits_of_what_may_be_lost(
    drop: tuple[float, float, float] | None, within: bool
) -> None:
    assert within_limits(_artifact("edge_int8_lite", drop=drop, size=1)) is within


def test_the_curve_has_a_row_a_group_with_its_verdict() -> None:
    sweep = sample_sweep()
    table = curve_markdown(sweep)
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(sweep.groups)
    for row, group in zip(rows, sweep.groups, strict=True):
        assert row.startswith(f"| `{group.split}` | {group.boundary_bits} |")
        assert f"**{group.verdict}**" in row
    assert "all controls green" in table


def test_the_curve_names_the_cuts_where_fp32_itself_leaks_little() -> None:
    sweep = sample_sweep()
    said = "FP32 features themselves leak less than the margin"
    assert said not in curve_markdown(sweep)
    faint = replace(sweep.groups[0], note="FP32 features leak only 1.00 dB")
    table = curve_markdown(replace(sweep, groups=(faint, *sweep.groups[1:])))
    assert f"**At `{faint.split}` {said} over the floor: a verdict there says little.**" in table


@pytest.mark.parametrize(("leak", "faint"), [(2.9, True), (3.0, False)])
def test_results_say_where_fp32_itself_leaks_little(leak: float, faint: bool) -> None:
    (split,) = _results((0.3, -0.1, 0.7), "features.1").splits
    figures = AttackFigures(
        recon_psnr_db={"A0": 12.0, "A1": 12.9},
        max_leak_db=leak,
        verdict=None,
        advantage_db=None,
        lower_db=None,
        upper_db=None,
    )
    artifacts = tuple(
        replace(one, attack=figures) if one.precision == "fp32" else one for one in split.artifacts
    )
    split = replace(split, artifacts=artifacts)
    table = results_markdown(replace(_results((0.3, -0.1, 0.7)), splits=(split,)))
    assert ("leak only 2.90 dB over the floor" in table) is faint
    assert ("says little" in table) is faint


def test_a2_s_few_images_do_not_stand_beside_the_means_over_all() -> None:
    sweep = sample_sweep()
    group = sweep.groups[0]
    (artifact,) = (a for a in group.artifacts if a.advantage_db is not None)
    a1 = next(one for one in artifact.levels if one.level == "A1")
    level = replace(a1, level="A2", victims=a1.victims // 2)
    few = replace(level, recon_psnr_db=replace(a1.recon_psnr_db, mean=99.0))
    attacked = replace(artifact, levels=(*artifact.levels, few))
    others = tuple(attacked if a is artifact else a for a in group.artifacts)
    table = curve_markdown(replace(sweep, groups=(replace(group, artifacts=others),)))
    (row,) = (line for line in table.splitlines() if line.startswith("| `"))
    assert f"{group.floor_db + artifact.leak_db.mean:.2f} |" in row
    assert "99.00" not in row
    assert f"on the same {few.victims:,} images" in table
    assert "on the same" not in curve_markdown(sweep)


@pytest.mark.parametrize("stage", ["attack", "check"])
def test_the_curve_tells_a_failed_control_from_a_missed_parity(stage: str) -> None:
    gate = FailedGate(stage=stage, name="ceiling", artifact=None, measured=0.98, limit=0.99)  # type: ignore[arg-type]
    sweep = sample_sweep()
    groups = (replace(sweep.groups[0], failed_gates=(gate,)), *sweep.groups[1:])
    table = curve_markdown(replace(sweep, groups=groups))
    assert ("CONTROLS FAILED" in table) is (stage == "attack")
    assert ("Parity gates not met" in table) is (stage == "check")
    split = sweep.groups[0].split
    assert f"`{split}` at {sweep.groups[0].boundary_bits} bits: ceiling 0.98, limit 0.99" in table
    assert "all controls green" in curve_markdown(sweep)


def test_a_table_is_placed_between_its_markers_once(tmp_path: Path) -> None:
    page, path = tmp_path / "page.md", tmp_path / "demo.json"
    codec.write(path, sample_sweep())
    page.write_text("a\n<!-- curve:demo -->\nold\n<!-- /curve:demo -->\nb\n", encoding="utf-8")
    assert place_results(page, path)
    assert not place_results(page, path)
    table = table_of("curve", path)
    text = page.read_text(encoding="utf-8")
    assert text == f"a\n<!-- curve:demo -->\n{table}<!-- /curve:demo -->\nb\n"


def test_what_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    page, path = tmp_path / "page.md", tmp_path / "demo.json"
    codec.write(path, sample_sweep())
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(InputError, match="exactly once"):
        place_results(page, path)
    page.write_text("<!-- pie:demo -->\n<!-- /pie:demo -->", encoding="utf-8")
    with pytest.raises(InputError, match="pie"):
        main([str(page), str(path)])
    page.write_text("<!-- results:demo -->\n<!-- /results:demo -->", encoding="utf-8")
    with pytest.raises(RecordError):
        place_results(page, path)


def test_the_curve_is_drawn_beside_its_record_and_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, path = tmp_path / "page.md", tmp_path / "demo.json"
    codec.write(path, sample_sweep())
    page.write_text("<!-- curve:demo -->\n<!-- /curve:demo -->\n", encoding="utf-8")
    main([str(page), str(path)])
    drawn = (tmp_path / "demo.svg").read_bytes()
    assert b"<svg" in drawn
    assert drawn.endswith(source_mark(path))
    assert "drawn" in capsys.readouterr().out


def test_a_published_sweep_names_files_and_no_folder() -> None:
    sweep = sample_sweep()
    base = replace(
        sweep.grid.base,
        data=replace(sweep.grid.base.data, source="npz:/home/me/data.npz"),
        model=replace(sweep.grid.base.model, weights="/home/me/model.safetensors"),
    )
    sweep = replace(
        sweep,
        grid=replace(sweep.grid, base=base),
        data=replace(sweep.data, source="npz:/home/me/data.npz"),
    )
    published = without_folders(sweep)
    assert b"/home" not in codec.encode(published)
    assert published.data.source == published.grid.base.data.source == "npz:data.npz"
    assert published.grid.base.model.weights == "model.safetensors"
    assert published.groups == sweep.groups
    assert published.candidates == sweep.candidates
    assert without_folders(published) == published
