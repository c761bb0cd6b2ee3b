from __future__ import annotations

from pathlib import Path

import numpy as np

from baseline.datasets import load_splits
from export.bundle import load_bundle
from pipeline.run import RunOptions, run_recipe
from records import codec
from records.recipe import read_recipe
from runtime_check.check import check_bundle
from tests.runtime_check.targets.here import Here

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

    # A record that a target left since belongs into the report too.
    split = tmp_path / "features.3"
    bundle = load_bundle(split / "bundle")
    victims = load_splits(bundle.manifest.recipe.data).victim.take(np.arange(8))
    with Here() as target:
        codec.write(split / "check-cortex-a72.json", check_bundle(bundle, victims, target=target))
    with_target = run_recipe(recipe, tmp_path, RunOptions(until="check"))
    assert [s.stage for s in with_target.stages if s.stage not in with_target.skipped] == ["report"]
    assert "cortex-a72" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
