from __future__ import annotations

from pathlib import Path

import pytest

from records.errors import RecipeError
from records.recipe import Recipe, read_recipe


def _write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert read_recipe(_write(tmp_path, "")) == Recipe()


def test_the_margin_is_fixed_at_three_db_unless_said_otherwise(tmp_path: Path) -> None:
    assert Recipe().attack.margin_db == 3.0
    assert read_recipe(_write(tmp_path, "[attack]\nmargin_db = 2.0\n")).attack.margin_db == 2.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "recipe"),
        ("[data]\nsuorce = 'photos'\n", "data: Object contains unknown field `suorce`"),
        ("[data]\nsource = 'imagenet'\n", "unknown"),
        ("[data]\nsource = 'npz'\n", "needs a path"),
        ("[export]\nsplits = []\n", "splits"),
        ("[export]\nsplits = ['a', 'a']\n", "twice"),
        ("[export]\nsplits = ['../x']\n", "not a module path"),
        ("[export]\nopset = 3\n", "opset"),
        ("[export]\nformats = ['ptl']\n", "must hold ptl and onnx"),
        ("[export]\nformats = ['ptl', 'onnx', 'ptl']\n", "twice"),
        ("[export]\nformats = ['ptl', 'onnx', 'coreml']\n", "coreml"),
        (
            "[export]\nfloat_layers = ['a']\nformats = ['ptl', 'onnx', 'pte', 'tflite']\n",
            "pte and tflite cannot hold float layers",
        ),
        ("[export]\nqat_images = 1\n", "qat_images"),
        ("[export]\nqat_learning_rate = 0.0\n", "qat_learning_rate"),
        ("[export]\nqat = true\nbias_correction = true\n", "leave them out"),
        ("[export]\nqat = true\nbn_reestimation = true\n", "leave them out"),
        ("[attack]\nmargin_db = 0.0\n", "margin_db"),
        ("[attack]\nlevels = ['A1']\n", "A0"),
        ("[attack]\nlevels = ['A9']\n", "A9"),
        ("[bench]\nruns = 5\n", r"\[bench\] runs: Expected `int` >= 100"),
        ("[bench]\nseconds = 0.1\n", "seconds"),
        ("[model]\nstd = [0.1, 0.1, 0.0]\n", "std"),
        ("schema = 2\n", "schema: Invalid enum value 2"),
    ],
)
def test_a_bad_recipe_is_refused_by_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_recipe(_write(tmp_path, text))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError):
        read_recipe(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('levels = ["A1"]', "must contain A0"),
        ('levels = ["A0", "A2"]', "with A2 must contain A1"),
        ('levels = ["A0", "A3"]', "with A3 must contain A1"),
        ('levels = ["A0", "A0"]', "named twice"),
        ("query_budgets = [100, 10]", "must ascend"),
        ('ood_source = "npz:"', "needs a path"),
        ('ood_source = "imagenet"', "unknown"),
        ('controls = ["luck"]', "luck"),
    ],
)
def test_attackers_that_contradict_each_other_are_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"schema = 1\n[attack]\n{text}\n")
    with pytest.raises(RecipeError, match=said):
        read_recipe(path)
