from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import edgeveil
from records import codec
from records.errors import ModelError, OverwriteError, RecipeError
from records.training import RECORD_NAME, WEIGHTS_NAME, TrainingRecord
from tests.baseline.small_data import write_npz


def _train(*options: str) -> Result:
    return CliRunner().invoke(edgeveil.group, ["train", *options], standalone_mode=False)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    data = write_npz(tmp_path / "d.npz")
    model = "tests.tiny_network:build"
    return ["--data", f"npz:{data}", "--model", model, "--epochs", "1", "--device", "cpu"]


def test_json_is_the_record_and_nothing_else(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "out"
    result = _train(*options, "--out", str(out), "--json", "--seed", "5", "--batch-size", "8")
    assert result.exception is None
    record = codec.decode(result.stdout.encode(), TrainingRecord, "stdout")
    assert record == codec.read(out / RECORD_NAME, TrainingRecord)
    assert (record.train.seed, record.train.batch_size, record.train.epochs) == (5, 8, 1)


def test_the_text_names_the_accuracy_and_the_file(tmp_path: Path, options: list[str]) -> None:
    result = _train(*options, "--out", str(tmp_path / "out"))
    assert "top-1 on 40 victims" in result.stdout
    assert WEIGHTS_NAME in result.stdout


def test_options_override_the_recipe(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "r.toml").write_text("[train]\nepochs = 7\nseed = 9\n")
    recipe = ["--recipe", str(tmp_path / "r.toml")]
    _train(*recipe, *options, "--out", str(tmp_path / "out"))
    record = codec.read(tmp_path / "out" / RECORD_NAME, TrainingRecord)
    assert (record.train.epochs, record.train.seed) == (1, 9)


def test_results_are_kept_unless_forced_or_resumed(tmp_path: Path, options: list[str]) -> None:
    options += ["--out", str(tmp_path / "out")]
    assert _train(*options).exception is None
    assert isinstance(_train(*options).exception, OverwriteError)
    assert _train(*options, "--resume").exception is None
    assert _train(*options, "--force", "--seed", "1").exception is None
    assert isinstance(_train(*options, "--resume").exception, RecipeError)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (["--image-size", "3"], RecipeError),
        (["--data", "mnist"], RecipeError),
        (["--weights", "nowhere.safetensors"], ModelError),
        (["--model", "resnet_of_dreams"], ModelError),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, options: list[str], bad: list[str], error: type[Exception]
) -> None:
    result = _train(*options, *bad, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, error)
    assert not (tmp_path / "out" / WEIGHTS_NAME).exists()
