from __future__ import annotations

from pathlib import Path

from pipeline.run import RunOptions, run_recipe
from records.recipe import read_recipe

RECIPE = Path(__file__).with_name("tiny.toml")


def test_a_run_stops_after_the_stage_that_it_is_told_and_goes_on_from_there(tmp_path: Path) -> None:
    recipe = read_recipe(RECIPE)
    first = run_recipe(recipe, tmp_path, RunOptions(until="export"))
    assert [s.stage for s in first.stages] == ["train", "features.3/export", "report"]
    assert not (tmp_path / "features.3" / "check.json").exists()
    second = run_recipe(recipe, tmp_path, RunOptions(until="check"))
    assert second.skipped == ("train", "features.3/export")
    assert (tmp_path / "features.3" / "check.json").is_file()
    assert not (tmp_path / "features.3" / "bench.json").exists()
    assert not (tmp_path / "features.3" / "attack").exists()
    again = run_recipe(recipe, tmp_path, RunOptions(until="check"))
    assert len(again.skipped) == len(again.stages)
