"""Training as a stage: leftovers, resumption, the weights' file and the record."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from baseline.checkpoint import POINTER_NAME, Checkpoints
from baseline.datasets import ImageSplits
from baseline.device import choose_device
from baseline.evaluate import evaluate
from baseline.fit import fit
from baseline.model import build_model, check_forward, count_parameters
from baseline.weights import save_weights
from records import codec, files
from records.errors import ModelError, OverwriteError, RecipeError, RecordError
from records.hashing import sha256_file, sha256_record
from records.manifest import Preprocessing
from records.progress import Progress, silent
from records.recipe import Recipe
from records.training import RECORD_NAME, WEIGHTS_NAME, TrainingRecord

_VERSIONED = ("edgeveil", "torch", "torchvision", "numpy")


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    splits: ImageSplits
    folder: Path
    initial_sha256: str | None

    @property
    def identity(self) -> str:
        """Hash of everything that decides the weights."""
        return sha256_record(
            (self.recipe.model, self.recipe.train, self.splits.record, self.initial_sha256)
        )


def train(
    recipe: Recipe,
    splits: ImageSplits,
    folder: Path,
    *,
    resume: bool,
    replace: bool = False,
    progress: Progress = silent,
) -> TrainingRecord:
    """Train the recipe's network and write ``model.safetensors`` and ``training.json``.

    With ``epochs = 0`` the given weights are kept, written and evaluated.

    Args:
        recipe: its sections ``model`` and ``train`` decide; ``data`` goes into the record.
        splits: trained on ``train``, evaluated on ``victim``.
        folder: made when missing.
        resume: go on from the last checkpoint; start anew where there is none; return the record
            at once where the same training is already done.
        replace: remove what cannot be gone on with (another recipe's, damaged, or, without
            ``resume``, anything) instead of refusing.
        progress: called once a step.

    Returns:
        The record that was written.

    Raises:
        OverwriteError: there are results, and neither ``resume`` nor ``replace``.
        RecipeError: ``resume``, but what is there came from another recipe or other data, and
            ``replace`` is false.
        ModelError: the network cannot be built, does not fit the images, or diverged.
        DataError: too few training images.
        RecordError: a checkpoint or record is damaged.
        UnsupportedHereError: the asked device is not here.
    """
    job = _Job(recipe, splits, folder, _initial_sha256(recipe))
    checkpoints = Checkpoints(folder, job.identity)
    if folder.is_dir():
        files.remove_partials(folder)
    if replace:
        _remove_leftovers(job, checkpoints, keep_usable=resume)
    elif not resume:
        _refuse_leftovers(folder)
    done = _finished(job)
    record = done or _train(job, checkpoints, progress)
    checkpoints.clear()
    return record


def _train(job: _Job, checkpoints: Checkpoints, progress: Progress) -> TrainingRecord:
    recipe, splits = job.recipe, job.splits
    device = choose_device(recipe.train.device)
    model = build_model(recipe.model, len(splits.classes), seed=recipe.train.seed)
    check_forward(model, recipe.model, len(splits.classes))
    spec = Preprocessing(
        native_size=splits.record.native_size,
        image_size=recipe.model.image_size,
        mean=recipe.model.mean,
        std=recipe.model.std,
    )
    epochs = fit(
        model,
        splits.train,
        spec,
        recipe.train,
        device=device,
        checkpoints=checkpoints,
        progress=progress,
    )
    started = time.perf_counter()
    accuracy = evaluate(model, splits.victim, spec, device=device)
    weights = job.folder / WEIGHTS_NAME
    save_weights(model, weights, replace=True)
    record = TrainingRecord(
        data_recipe=recipe.data,
        model=recipe.model,
        train=recipe.train,
        data=splits.record,
        initial_sha256=job.initial_sha256,
        checkpoint_file=weights.name,
        checkpoint_sha256=sha256_file(weights),
        parameters=count_parameters(model),
        epochs=epochs,
        victim_accuracy=accuracy,
        device=device.type,
        threads=torch.get_num_threads(),
        versions={name: version(name) for name in _VERSIONED}
        | {"python": platform.python_version()},
        seconds=sum(epoch.seconds for epoch in epochs) + time.perf_counter() - started,
    )
    # The record comes last: with it the training counts as done.
    codec.write(job.folder / RECORD_NAME, record, replace=True)
    return record


def _initial_sha256(recipe: Recipe) -> str | None:
    path = Path(recipe.model.weights)
    if recipe.model.weights in {"scratch", "imagenet"} or not path.is_file():
        return None
    return sha256_file(path)


def _refuse_leftovers(folder: Path) -> None:
    for name in (RECORD_NAME, WEIGHTS_NAME, POINTER_NAME):
        if (folder / name).exists():
            raise OverwriteError(
                f"{folder / name} is already there; go on with --resume, or remove it or choose "
                "another folder"
            )


def _remove_leftovers(job: _Job, checkpoints: Checkpoints, *, keep_usable: bool) -> None:
    if not (keep_usable and checkpoints.usable()):
        checkpoints.clear()
    try:
        keep = keep_usable and _finished(job) is not None
    except (RecipeError, RecordError, ModelError):
        keep = False
    if not keep:
        # The record first: without it the weights count for nothing.
        (job.folder / RECORD_NAME).unlink(missing_ok=True)
        (job.folder / WEIGHTS_NAME).unlink(missing_ok=True)


def _finished(job: _Job) -> TrainingRecord | None:
    path = job.folder / RECORD_NAME
    if not path.exists():
        return None
    record = codec.read(path, TrainingRecord)
    made_by = sha256_record((record.model, record.train, record.data, record.initial_sha256))
    if made_by != job.identity:
        raise RecipeError(
            f"{path} was made by another recipe or from other data; remove it or choose another "
            "folder"
        )
    weights = job.folder / record.checkpoint_file
    if not weights.is_file() or sha256_file(weights) != record.checkpoint_sha256:
        raise ModelError(f"{weights} is missing or not the file that {path} names; remove both")
    return record
