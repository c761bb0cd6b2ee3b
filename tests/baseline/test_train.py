from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from baseline.checkpoint import POINTER_NAME
from baseline.datasets import ImageSplits, load_splits
from baseline.evaluate import evaluate
from baseline.model import build_model
from baseline.train import train
from records import codec
from records.errors import DataError, ModelError, OverwriteError, RecipeError
from records.hashing import sha256_file
from records.manifest import Preprocessing
from records.progress import Progress
from records.recipe import DataRecipe, ModelRecipe, Recipe, TrainRecipe
from records.training import RECORD_NAME, WEIGHTS_NAME, TrainingRecord
from tests.baseline.small_data import write_npz

ROOT = Path(__file__).resolve().parents[2]


class StoppedError(Exception):
    """Stands for Ctrl-C at a moment that the test chooses."""


def _stop_at(step: int) -> Progress:
    def report(task: str, done: int, total: int) -> None:
        if done == step:
            raise StoppedError

    return report


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = write_npz(tmp_path_factory.mktemp("data") / "d.npz", train=240)
    return Recipe(
        data=DataRecipe(source=f"npz:{path}"),
        model=ModelRecipe(name="tests.tiny_network:build"),
        train=TrainRecipe(epochs=4, batch_size=16, seed=3),
    )


@pytest.fixture(scope="module")
def splits(recipe: Recipe) -> ImageSplits:
    return load_splits(recipe.data)


@pytest.fixture(scope="module")
def undisturbed(
    recipe: Recipe, splits: ImageSplits, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    train(recipe, splits, folder, resume=False)
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _record(folder: Path) -> TrainingRecord:
    return codec.read(folder / RECORD_NAME, TrainingRecord)


def _changed(recipe: Recipe, **train_changes: object) -> Recipe:
    changed = msgspec.structs.replace(recipe.train, **train_changes)
    return msgspec.structs.replace(recipe, train=changed)


def test_the_folder_holds_the_weights_and_the_record(undisturbed: Path, recipe: Recipe) -> None:
    assert _names(undisturbed) == [WEIGHTS_NAME, RECORD_NAME]
    record = _record(undisturbed)
    assert record.checkpoint_sha256 == sha256_file(undisturbed / WEIGHTS_NAME)
    assert (record.data_recipe, record.model, record.train) == (
        recipe.data,
        recipe.model,
        recipe.train,
    )
    assert len(record.epochs) == 4
    assert record.epochs[-1].loss < record.epochs[0].loss
    assert record.initial_sha256 is None


def test_the_recorded_accuracy_is_that_of_the_file(
    undisturbed: Path, recipe: Recipe, splits: ImageSplits
) -> None:
    model = msgspec.structs.replace(recipe.model, weights=str(undisturbed / WEIGHTS_NAME))
    spec = Preprocessing(native_size=32, image_size=32, mean=model.mean, std=model.std)
    found = evaluate(build_model(model, 4), splits.victim, spec)
    assert found == _record(undisturbed).victim_accuracy
    # Four clearly different classes: chance is 0.25.
    assert found.low > 0.5


def test_two_trainings_are_equal_timings_aside(
    undisturbed: Path, recipe: Recipe, splits: ImageSplits, tmp_path: Path
) -> None:
    again = train(recipe, splits, tmp_path, resume=False)
    assert codec.without_timings(again) == codec.without_timings(_record(undisturbed))
    other = train(_changed(recipe, seed=4), splits, tmp_path / "other", resume=False)
    assert other.checkpoint_sha256 != again.checkpoint_sha256


@pytest.mark.parametrize("step", [1, 5, 6, 7, 17, 24])
def test_stopped_anywhere_it_resumes_to_the_same_bits(
    undisturbed: Path, recipe: Recipe, splits: ImageSplits, tmp_path: Path, step: int
) -> None:
    # 96 train images, 16 a batch: an epoch has 6 steps.
    with pytest.raises(StoppedError):
        train(recipe, splits, tmp_path, resume=True, progress=_stop_at(step))
    assert (tmp_path / POINTER_NAME).exists() == (step > 6)
    assert not (tmp_path / RECORD_NAME).exists()
    record = train(recipe, splits, tmp_path, resume=True)
    assert codec.without_timings(record) == codec.without_timings(_record(undisturbed))
    assert _names(tmp_path) == [WEIGHTS_NAME, RECORD_NAME]


def test_dropout_resumes_to_the_same_bits(
    recipe: Recipe, splits: ImageSplits, tmp_path: Path
) -> None:
    model = msgspec.structs.replace(recipe.model, name="mobilenet_v3_small")
    recipe = _changed(msgspec.structs.replace(recipe, model=model), epochs=2, batch_size=48)
    whole = train(recipe, splits, tmp_path / "whole", resume=False)
    with pytest.raises(StoppedError):
        train(recipe, splits, tmp_path / "cut", resume=True, progress=_stop_at(3))
    cut = train(recipe, splits, tmp_path / "cut", resume=True)
    assert cut.checkpoint_sha256 == whole.checkpoint_sha256


def _command(recipe: Recipe, folder: Path) -> list[str]:
    program = (
        "import sys, msgspec; from pathlib import Path; from records.recipe import Recipe;"
        "from baseline.datasets import load_splits; from baseline.train import train;"
        "recipe = msgspec.json.decode(sys.argv[1], type=Recipe);"
        "train(recipe, load_splits(recipe.data), Path(sys.argv[2]), resume=True)"
    )
    return [sys.executable, "-c", program, msgspec.json.encode(recipe).decode(), str(folder)]


@pytest.mark.slow
def test_killed_for_good_it_resumes_to_the_same_bits(
    recipe: Recipe, splits: ImageSplits, tmp_path: Path
) -> None:
    recipe = _changed(recipe, epochs=12)
    folder = tmp_path / "killed"
    process = subprocess.Popen(_command(recipe, folder), cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not (folder / POINTER_NAME).exists() and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (folder / POINTER_NAME).exists()
    assert not (folder / RECORD_NAME).exists()
    resumed = train(recipe, splits, folder, resume=True)
    whole = train(recipe, splits, tmp_path / "whole", resume=False)
    assert codec.without_timings(resumed) == codec.without_timings(whole)
    assert _names(folder) == [WEIGHTS_NAME, RECORD_NAME]


def test_what_is_finished_is_returned_untouched(
    recipe: Recipe, splits: ImageSplits, tmp_path: Path
) -> None:
    first = train(recipe, splits, tmp_path, resume=True)
    changed = (tmp_path / WEIGHTS_NAME).stat().st_mtime_ns
    assert train(recipe, splits, tmp_path, resume=True) == first
    assert (tmp_path / WEIGHTS_NAME).stat().st_mtime_ns == changed


def test_results_are_not_overwritten(recipe: Recipe, splits: ImageSplits, tmp_path: Path) -> None:
    first = train(recipe, splits, tmp_path, resume=False)
    with pytest.raises(OverwriteError, match="--resume"):
        train(recipe, splits, tmp_path, resume=False)
    again = train(recipe, splits, tmp_path, resume=False, replace=True)
    assert again.checkpoint_sha256 == first.checkpoint_sha256


def test_another_recipe_is_not_resumed(recipe: Recipe, splits: ImageSplits, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(recipe, splits, tmp_path, resume=True, progress=_stop_at(7))
    other = _changed(recipe, learning_rate=1e-3)
    with pytest.raises(RecipeError, match="another recipe"):
        train(other, splits, tmp_path, resume=True)
    other_data = load_splits(msgspec.structs.replace(recipe.data, seed=9))
    with pytest.raises(RecipeError, match="other data"):
        train(recipe, other_data, tmp_path, resume=True)
    train(other, splits, tmp_path, resume=True, replace=True)
    with pytest.raises(RecipeError, match="another recipe"):
        train(recipe, splits, tmp_path, resume=True)


def test_exchanged_weights_are_noticed(
    recipe: Recipe, splits: ImageSplits, undisturbed: Path, tmp_path: Path
) -> None:
    train(recipe, splits, tmp_path, resume=False)
    data = bytearray((tmp_path / WEIGHTS_NAME).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS_NAME).write_bytes(data)
    with pytest.raises(ModelError, match="not the file"):
        train(recipe, splits, tmp_path, resume=True)
    train(recipe, splits, tmp_path, resume=True, replace=True)
    assert sha256_file(tmp_path / WEIGHTS_NAME) == _record(undisturbed).checkpoint_sha256


def test_no_epochs_keep_the_given_weights(
    recipe: Recipe, splits: ImageSplits, undisturbed: Path, tmp_path: Path
) -> None:
    given = undisturbed / WEIGHTS_NAME
    model = msgspec.structs.replace(recipe.model, weights=str(given))
    kept = _changed(msgspec.structs.replace(recipe, model=model), epochs=0)
    record = train(kept, splits, tmp_path, resume=False)
    assert (tmp_path / WEIGHTS_NAME).read_bytes() == given.read_bytes()
    assert record.initial_sha256 == sha256_file(given)
    assert record.epochs == ()
    assert record.victim_accuracy == _record(undisturbed).victim_accuracy


def test_fine_tuning_starts_from_the_given_weights(
    recipe: Recipe, splits: ImageSplits, undisturbed: Path, tmp_path: Path
) -> None:
    model = msgspec.structs.replace(recipe.model, weights=str(undisturbed / WEIGHTS_NAME))
    tuned = _changed(msgspec.structs.replace(recipe, model=model), epochs=1, learning_rate=1e-4)
    record = train(tuned, splits, tmp_path, resume=False)
    assert record.epochs[0].loss < _record(undisturbed).epochs[0].loss


def test_a_leftover_of_a_killed_writer_is_removed(
    recipe: Recipe, splits: ImageSplits, tmp_path: Path
) -> None:
    (tmp_path / f".{WEIGHTS_NAME}.x1.partial").write_bytes(b"half")
    train(_changed(recipe, epochs=1), splits, tmp_path, resume=True)
    assert _names(tmp_path) == [WEIGHTS_NAME, RECORD_NAME]


def test_too_few_images_are_refused(recipe: Recipe, splits: ImageSplits, tmp_path: Path) -> None:
    few = replace(splits, train=splits.train.take(np.array([0])))
    with pytest.raises(DataError, match="two images"):
        train(recipe, few, tmp_path, resume=False)


def test_threads_are_recorded(undisturbed: Path) -> None:
    assert _record(undisturbed).threads == torch.get_num_threads()
