from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from records.bench import NOT_ASKED_FOR, Skipped
from records.manifest import SetRecord
from records.recipe import DataRecipe, Recipe, TrainRecipe
from report.document import Code, Paragraph, Section
from report.load import RunRecords, SplitRecords, TargetRecords, load_run
from report.reproduce_section import reproduce_section
from report.steps import commands, made_by
from tests.report.sample_run import Sample, digest, write_sample_run
from tests.report.test_target_section import TARGET, instruction_record

GIVEN = "weights/mine.safetensors"


def _loaded(folder: Path, **settings: object) -> RunRecords:
    return load_run(write_sample_run(folder, Sample(**settings)))  # type: ignore[arg-type]


def _by_steps(run: RunRecords) -> RunRecords:
    """Return the run as ``train`` and ``export --weights`` leave it: recipes that differ."""
    assert run.training is not None
    training = replace(run.training, train=TrainRecipe(epochs=2))
    return dataclasses.replace(run, training=training, splits=tuple(map(_given, run.splits)))


def _given(split: SplitRecords) -> SplitRecords:
    assert split.manifest is not None
    recipe = split.manifest.recipe
    recipe = replace(recipe, model=replace(recipe.model, weights=GIVEN))
    return dataclasses.replace(split, manifest=replace(split.manifest, recipe=recipe))


def _first(run: RunRecords, **changes: object) -> RunRecords:
    first, *others = run.splits
    changed = dataclasses.replace(first, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(run, splits=(changed, *others))


def _texts(section: Section) -> str:
    return "\n".join(b.text for b in section.blocks if isinstance(b, Paragraph | Code))


def _tomls(section: Section) -> list[Recipe]:
    found = [b.text for b in section.blocks if isinstance(b, Code) and b.language == "toml"]
    return [msgspec.toml.decode(text, type=Recipe) for text in found]


def test_what_one_run_did_is_one_command(tmp_path: Path) -> None:
    run = _loaded(tmp_path, splits=("features.3", "avgpool"))
    assert commands(run) == ("edgeveil run recipe.toml --out again",)
    assert _tomls(reproduce_section(run)) == [run.recipe]


def test_a_run_without_an_attack_stops_where_it_stopped(tmp_path: Path) -> None:
    run = _loaded(tmp_path, leave_out=frozenset({"attack", "bench"}))
    assert commands(run) == ("edgeveil run recipe.toml --out again --until check",)


def test_single_steps_train_as_long_as_they_did(tmp_path: Path) -> None:
    run = _by_steps(_loaded(tmp_path))
    assert made_by(run) == "steps"
    assert commands(run) == (
        "edgeveil train --recipe train.toml --out again/train",
        "edgeveil export --recipe features.3.toml --out again/features.3/bundle",
        "edgeveil check again/features.3/bundle",
        "edgeveil bench again/features.3/bundle",
        "edgeveil attack again/features.3/bundle",
        "edgeveil report again",
    )
    section = reproduce_section(run)
    training, exported = _tomls(section)
    assert training.train.epochs == 2
    assert exported.model.weights == "again/train/model.safetensors"
    # Nothing may suggest that the default thirty epochs belong to the given weights.
    assert "\nepochs = 30" not in _texts(section)


def test_given_weights_are_named_by_their_hash(tmp_path: Path) -> None:
    run = _by_steps(_loaded(tmp_path, leave_out=frozenset({"bench"})))
    run = dataclasses.replace(run, training=None)
    section = reproduce_section(run)
    assert not any("edgeveil train" in command for command in commands(run))
    assert digest("model") in _texts(section)
    (recipe,) = _tomls(section)
    assert recipe.model.weights == GIVEN


def test_the_limits_of_the_command_line_are_repeated(tmp_path: Path) -> None:
    run = _by_steps(_loaded(tmp_path))
    split = run.splits[0]
    assert split.check is not None
    assert split.bench is not None
    assert split.attack is not None
    few = SetRecord(count=64, sha256=digest("few"))
    victims = replace(
        split.check.victims, count=100, is_manifest_set=False, first_of=2000, source="npz:a b.npz"
    )
    attack = replace(
        split.attack,
        recipe=replace(split.attack.recipe, levels=("A0", "A1", "A2"), controls=()),
        data=replace(split.attack.data, attacker=few, victim=few),
        pre_registered=False,
        threads=2,
    )
    skipped = tuple(
        Skipped(artifact=size.artifact, threads=None, reason=NOT_ASKED_FOR)
        for size in split.bench.sizes
        if size.runtime == "lite"
    )
    bench = replace(
        split.bench, recipe=replace(split.bench.recipe, threads=(1,), batch_size=8), skipped=skipped
    )
    run = _first(
        run, check=replace(split.check, victims=victims, threads=2), bench=bench, attack=attack
    )
    assert commands(run)[2:5] == (
        "edgeveil check again/features.3/bundle --data 'npz:a b.npz' --limit 100 --threads 2",
        "edgeveil bench again/features.3/bundle --threads 1 --batch-size 8 --runtime onnx",
        "edgeveil attack again/features.3/bundle --attacker-images 64 --victims 64 "
        "--levels A0,A1,A2 --controls none --threads 2",
    )


def test_a_limited_attack_on_a_run_is_its_own_command(tmp_path: Path) -> None:
    run = _loaded(tmp_path)
    attack = run.splits[0].attack
    assert attack is not None
    few = SetRecord(count=64, sha256=digest("few"))
    limited = replace(attack, data=replace(attack.data, victim=few), pre_registered=False)
    run = _first(run, attack=limited)
    assert made_by(run) == "run and steps"
    found = commands(run)
    assert found[0] == "edgeveil run recipe.toml --out again --until export"
    assert "edgeveil attack again/features.3/bundle --victims 64" in found
    assert found[-1] == "edgeveil report again --force"


@pytest.mark.parametrize("what", ["data", "model", "train", "checkpoint"])
def test_a_training_that_the_recipe_does_not_say_is_a_step(tmp_path: Path, what: str) -> None:
    run = _loaded(tmp_path)
    training = run.training
    assert training is not None
    changed = {
        "data": replace(training, data_recipe=DataRecipe(attacker_pool="train")),
        "model": replace(training, model=replace(training.model, image_size=96)),
        "train": replace(training, train=TrainRecipe(seed=1)),
        "checkpoint": replace(training, checkpoint_sha256=digest("another")),
    }[what]
    assert made_by(dataclasses.replace(run, training=changed)) == "steps"


def test_a_hostile_folder_name_is_quoted(tmp_path: Path) -> None:
    run = _by_steps(_loaded(tmp_path))
    run = _first(run, folder=tmp_path / "a; rm -rf b")
    assert "--out 'again/a; rm -rf b/bundle'" in commands(run)[1]
    assert "edgeveil check 'again/a; rm -rf b/bundle'" in commands(run)


def test_what_ran_on_an_emulated_target_follows_with_its_limits(tmp_path: Path) -> None:
    run = _loaded(tmp_path)
    check, attack = run.splits[0].check, run.splits[0].attack
    assert check is not None
    assert attack is not None
    there = TargetRecords(
        "cortex-a72",
        replace(check, victims=replace(check.victims, count=200), target=TARGET),
        instruction_record(),
        replace(attack, target=TARGET),
    )
    assert commands(_first(run, targets=(there,))) == (
        "edgeveil run recipe.toml --out again",
        "edgeveil check again/features.3/bundle --target cortex-a72 --limit 200",
        "edgeveil bench again/features.3/bundle --target cortex-a72",
        "edgeveil attack again/features.3/bundle --target cortex-a72 --victims 2000",
        "edgeveil report again --force",
    )
