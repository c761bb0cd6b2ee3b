"""The stages of a run and what each depends on, in order; data flows one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from attack.evaluate import attack_bundle
from baseline.datasets import ImageSplits
from baseline.model import build_model
from baseline.train import train
from benchmarks.latency import bench_bundle
from export.build import export_bundle, tool_versions
from export.bundle import Bundle, load_bundle
from pipeline.stage import Stage
from records import codec, files
from records.hashing import sha256_file
from records.progress import Progress
from records.recipe import Recipe
from report.load import record_files
from report.write import write_report
from runtime_check.check import check_bundle

#: The stages of a split, in order; each needs those before it.
Until = Literal["export", "check", "bench", "attack"]


@dataclass(frozen=True)
class _Run:
    recipe: Recipe
    folder: Path
    splits: ImageSplits
    progress: Progress
    until: Until

    def bundle(self, split: str) -> Bundle:
        return load_bundle(self.folder / split / "bundle")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "train" / "model.safetensors"


def run_stages(
    recipe: Recipe,
    folder: Path,
    splits: ImageSplits,
    progress: Progress,
    *,
    until: Until = "attack",
) -> Iterator[Stage]:
    """Yield the stages in order; each must be finished before the next is asked for.

    The inputs of a stage contain the hashes of what earlier stages wrote, so they are read
    only when the stage is yielded.

    Args:
        recipe: the run.
        folder: the run folder.
        splits: the image sets.
        progress: handed to the stages.
        until: the last stage of each split.

    Yields:
        train, then for each split export, check, bench and attack, then report.
    """
    run = _Run(recipe, folder, splits, progress, until)
    yield _train_stage(run)
    for split in recipe.export.splits:
        for stage in _wanted(until):
            yield _OF_SPLIT[stage](run, split)
    yield _report_stage(run)


def _wanted(until: Until) -> tuple[Until, ...]:
    names = tuple(_OF_SPLIT)
    return names[: names.index(until) + 1]


def _train_stage(run: _Run) -> Stage:
    def work() -> bool:
        train(
            run.recipe,
            run.splits,
            run.folder / "train",
            resume=True,
            replace=True,
            progress=run.progress,
        )
        return True

    weights = Path(run.recipe.model.weights)
    return Stage(
        name="train",
        inputs={
            "data": run.splits.record,
            "model": run.recipe.model,
            "train": run.recipe.train,
            "weights": sha256_file(weights) if weights.is_file() else None,
            "versions": tool_versions(),
        },
        outputs=("train/model.safetensors", "train/training.json"),
        work=work,
    )


def _export_stage(run: _Run, split: str) -> Stage:
    checkpoint_sha256 = sha256_file(run.checkpoint)

    def work() -> bool:
        trained = msgspec.structs.replace(run.recipe.model, weights=str(run.checkpoint))
        export_bundle(
            build_model(trained, len(run.splits.classes)),
            run.recipe,
            run.splits,
            split,
            run.folder / split / "bundle",
            checkpoint_sha256=checkpoint_sha256,
            replace=True,
            progress=run.progress,
        )
        return True

    return Stage(
        name=f"{split}/export",
        inputs={
            "checkpoint": checkpoint_sha256,
            "data": run.splits.record,
            "recipe": run.recipe,
            "versions": tool_versions(run.recipe.export.formats),
        },
        outputs=(f"{split}/bundle",),
        work=work,
    )


def _check_stage(run: _Run, split: str) -> Stage:
    def work() -> bool:
        evidence = run.folder / split / "check-evidence.npz"
        evidence.unlink(missing_ok=True)
        record = check_bundle(
            run.bundle(split),
            run.splits.victim,
            progress=run.progress,
            evidence=evidence,
            replace=True,
        )
        codec.write(run.folder / split / "check.json", record, replace=True)
        return record.passed

    return Stage(
        name=f"{split}/check",
        inputs=_bundle_inputs(run, split),
        outputs=(f"{split}/check.json",),
        work=work,
    )


def _bench_stage(run: _Run, split: str) -> Stage:
    def work() -> bool:
        record = bench_bundle(
            run.bundle(split),
            run.recipe.bench,
            images=run.splits.victim.images,
            samples=run.folder / split / "bench-samples.json",
            progress=run.progress,
        )
        codec.write(run.folder / split / "bench.json", record, replace=True)
        return True

    return Stage(
        name=f"{split}/bench",
        inputs=_bundle_inputs(run, split),
        outputs=(f"{split}/bench.json",),
        work=work,
    )


def _attack_stage(run: _Run, split: str) -> Stage:
    def work() -> bool:
        with files.new_folder(run.folder / split / "attack", replace=True) as partial:
            record = attack_bundle(
                run.bundle(split),
                run.splits,
                run.recipe.attack,
                run.folder / "cache",
                partial,
                progress=run.progress,
            )
            codec.write(partial / "attack.json", record)
        return record.passed

    return Stage(
        name=f"{split}/attack",
        inputs=_bundle_inputs(run, split),
        outputs=(f"{split}/attack",),
        work=work,
    )


def _report_stage(run: _Run) -> Stage:
    # Whatever lies there: also what check, bench and attack on targets and devices left since.
    files_read = {p.relative_to(run.folder).as_posix(): p for p in record_files(run.folder)}

    def work() -> bool:
        write_report(run.folder, run.folder / "report", replace=True)
        return True

    return Stage(
        name="report",
        inputs={name: sha256_file(path) for name, path in files_read.items()},
        outputs=("report",),
        work=work,
    )


_OF_SPLIT: dict[Until, Callable[[_Run, str], Stage]] = {
    "export": _export_stage,
    "check": _check_stage,
    "bench": _bench_stage,
    "attack": _attack_stage,
}


def _bundle_inputs(run: _Run, split: str) -> dict[str, object]:
    return {
        "bundle": run.bundle(split).manifest.bundle_id,
        "data": run.splits.record,
        "versions": tool_versions(),
    }
