"""The commands that do again what the records of a run say was done."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from records.attack import AttackRecord
from records.bench import NOT_ASKED_FOR, BenchRecord
from records.instructions import InstructionRecord
from records.kit import KIT_VICTIMS
from records.manifest import Manifest
from records.parity import SPOKEN_RUNTIMES, CheckRecord
from records.recipe import AttackRecipe, Recipe
from records.training import WEIGHTS_NAME, TrainingRecord
from report.load import RunRecords, SplitRecords, TargetRecords
from report.load_devices import DeviceRecords

#: Folder of the repetition; ``edgeveil report`` reads it like the run's own.
FOLDER = "again"
WEIGHTS = f"{FOLDER}/train/{WEIGHTS_NAME}"
RUN_RECIPE = "recipe.toml"
TRAIN_RECIPE = "train.toml"

#: ``edgeveil run`` checks and attacks with so many threads.
_RUN_THREADS = 1
#: Weights that only a training turns into a file, so no ``edgeveil export`` began with them.
_NO_FILE = ("scratch", "imagenet")
_ATTACK_KEYS = (
    "levels",
    "seeds",
    "capacities",
    "query_budgets",
    "white_box_images",
    "ood_source",
    "artifacts",
    "controls",
)

MadeBy = Literal["run", "run and steps", "steps"]


def made_by(run: RunRecords) -> MadeBy:
    """Return what does the same: ``edgeveil run`` alone, with single steps, or single steps only.

    ``edgeveil run`` exports what it trained itself, checks all victims of the manifest, and
    attacks the sealed image sets with the sealed recipe.
    """
    if not _exported_by_run(run):
        return "steps"
    return "run" if all(map(_as_sealed, run.splits)) else "run and steps"


def commands(run: RunRecords) -> tuple[str, ...]:
    """Return one shell command a step, in order; the recipes are files of this module's names."""
    how = made_by(run)
    steps: list[str] = []
    if how == "steps":
        if run.training is not None:
            steps.append(f"edgeveil train --recipe {TRAIN_RECIPE} --out {FOLDER}/train")
        steps += [_export(split) for split in run.splits if split.manifest is not None]
    else:
        until = _last_stage(run) if how == "run" else "export"
        option = "" if until == "attack" else f" --until {until}"
        steps.append(f"edgeveil run {RUN_RECIPE} --out {FOLDER}{option}")
    for split in run.splits:
        steps += _measurements(split, on_host=how != "run")
    if len(steps) > 1 or how == "steps":
        steps.append(f"edgeveil report {FOLDER}" + ("" if how == "steps" else " --force"))
    return tuple(steps)


def recipe_file(split: SplitRecords) -> str:
    """Return the name of the recipe that a split is exported with."""
    return f"{split.folder.name}.toml"


def trained_here(training: TrainingRecord | None, manifest: Manifest) -> bool:
    """Return whether a bundle holds the weights that the training beside it wrote."""
    return training is not None and training.checkpoint_sha256 == manifest.checkpoint_sha256


def _exported_by_run(run: RunRecords) -> bool:
    recipe = run.recipe
    manifests = [split.manifest for split in run.splits if split.manifest is not None]
    if recipe is None or any(manifest.recipe != recipe for manifest in manifests):
        return False
    training = run.training
    if training is None:
        return recipe.model.weights in _NO_FILE
    same = (training.data_recipe, training.model, training.train)
    return same == (recipe.data, recipe.model, recipe.train) and all(
        trained_here(training, manifest) for manifest in manifests
    )


def _as_sealed(split: SplitRecords) -> bool:
    if split.manifest is None:
        return False
    recipe = split.manifest.recipe
    return (
        _check_as_sealed(split.check, recipe)
        and _bench_as_sealed(split.bench, recipe)
        and _attack_as_sealed(split.attack)
    )


def _check_as_sealed(record: CheckRecord | None, recipe: Recipe) -> bool:
    return record is None or (
        record.recipe == recipe.check
        and record.victims.is_manifest_set
        and record.threads == _RUN_THREADS
        and record.target is None
    )


def _bench_as_sealed(record: BenchRecord | None, recipe: Recipe) -> bool:
    return record is None or (record.recipe == recipe.bench and _asked_runtime(record) is None)


def _attack_as_sealed(record: AttackRecord | None) -> bool:
    return record is None or (
        record.pre_registered and record.threads == _RUN_THREADS and record.target is None
    )


def _last_stage(run: RunRecords) -> str:
    stages = ("attack", "bench", "check")
    found = (stage for stage in stages if any(getattr(s, stage) is not None for s in run.splits))
    return next(found, "export")


def _export(split: SplitRecords) -> str:
    out = shlex.quote(f"{FOLDER}/{split.folder.name}/bundle")
    command = f"edgeveil export --recipe {shlex.quote(recipe_file(split))} --out {out}"
    if split.manifest is not None and len(split.manifest.recipe.export.splits) > 1:
        command += f" --split {shlex.quote(split.manifest.split)}"
    return command


def _measurements(split: SplitRecords, *, on_host: bool) -> Iterator[str]:
    """Yield check, bench and attack here where asked for, and those of targets and devices."""
    manifest = split.manifest
    if manifest is None:
        return
    bundle = shlex.quote(f"{FOLDER}/{split.folder.name}/bundle")
    if on_host:
        yield from _commands_of(bundle, manifest, split)
    for target in split.targets:
        yield from _commands_of(bundle, manifest, target)
    for device in split.devices:
        out = f"{FOLDER}/{split.folder.name}/{device.name}"
        yield _joined(
            f"device run {shlex.quote(device.device.destination)}",
            bundle,
            [("--out", out), *_device_options(device)],
        )


def _commands_of(
    bundle: str, manifest: Manifest, records: SplitRecords | TargetRecords
) -> Iterator[str]:
    if records.check is not None:
        yield _joined("check", bundle, _check_options(records.check, manifest))
    if isinstance(records, SplitRecords):
        if records.bench is not None:
            yield _joined("bench", bundle, _bench_options(records.bench, manifest))
    elif records.instructions is not None:
        yield _joined("bench", bundle, _count_options(records.instructions))
    if records.attack is not None:
        yield _joined("attack", bundle, _attack_options(records.attack, manifest))


def _device_options(records: DeviceRecords) -> Iterator[tuple[str, str]]:
    steps = records.device.steps
    if len(steps) == 1:
        yield "--only", steps[0]
    if records.check is not None and records.check.images != KIT_VICTIMS:
        yield "--limit", str(records.check.images)


def _joined(verb: str, bundle: str, options: Iterable[tuple[str, str]]) -> str:
    spoken = (f"{name} {shlex.quote(value)}" for name, value in options)
    return " ".join((f"edgeveil {verb} {bundle}", *spoken))


def _check_options(record: CheckRecord, manifest: Manifest) -> Iterator[tuple[str, str]]:
    victims = record.victims
    if record.target is not None:
        yield "--target", record.target.name
    if victims.source != manifest.data.source:
        yield "--data", victims.source
    # On an emulated target the default is not the whole set.
    if victims.first_of is not None or record.target is not None:
        yield "--limit", str(victims.count)
    if record.threads != _RUN_THREADS:
        yield "--threads", str(record.threads)


def _bench_options(record: BenchRecord, manifest: Manifest) -> Iterator[tuple[str, str]]:
    sealed = manifest.recipe.bench
    if record.recipe.threads != sealed.threads:
        yield "--threads", ",".join(map(str, record.recipe.threads))
    if record.recipe.batch_size != sealed.batch_size:
        yield "--batch-size", str(record.recipe.batch_size)
    runtime = _asked_runtime(record)
    if runtime is not None:
        yield "--runtime", runtime


def _count_options(record: InstructionRecord) -> Iterator[tuple[str, str]]:
    yield "--target", record.target.name


def _attack_options(record: AttackRecord, manifest: Manifest) -> Iterator[tuple[str, str]]:
    data, sealed = record.data, manifest.data
    if record.target is not None:
        yield "--target", record.target.name
    if data.source != sealed.source:
        yield "--data", data.source
    if data.attacker != sealed.attacker:
        yield "--attacker-images", str(data.attacker.count)
    if data.victim != sealed.victim or record.target is not None:
        yield "--victims", str(data.victim.count)
    yield from _changed_keys(record.recipe, manifest.recipe.attack)
    if record.threads != _RUN_THREADS:
        yield "--threads", str(record.threads)


def _changed_keys(used: AttackRecipe, sealed: AttackRecipe) -> Iterator[tuple[str, str]]:
    for key in _ATTACK_KEYS:
        value = getattr(used, key)
        if value != getattr(sealed, key):
            words = value if isinstance(value, tuple) else (value,)
            yield f"--{key.replace('_', '-')}", ",".join(map(str, words)) or "none"


def _asked_runtime(record: BenchRecord) -> str | None:
    """Return what ``bench --runtime`` was given, None for all."""
    left_out = {skip.artifact for skip in record.skipped if skip.reason == NOT_ASKED_FOR}
    asked = {s.runtime for s in record.sizes if s.role == "edge" and s.artifact not in left_out}
    return SPOKEN_RUNTIMES[asked.pop()] if left_out and len(asked) == 1 else None


def stepped_recipe(run: RunRecords, split: SplitRecords) -> Recipe | None:
    """Return the recipe that a split was exported with, its weights where a repetition has them."""
    if split.manifest is None:
        return None
    recipe = split.manifest.recipe
    if not trained_here(run.training, split.manifest):
        return recipe
    model = msgspec.structs.replace(recipe.model, weights=WEIGHTS)
    return msgspec.structs.replace(recipe, model=model)
