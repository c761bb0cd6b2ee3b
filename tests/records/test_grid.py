from __future__ import annotations

from pathlib import Path

import pytest

from records import codec
from records.errors import RecipeError
from records.grid import Grid, read_grid
from records.recipe import Recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
GRID = """
name = "g"
splits = ["features.1", "features.3"]
boundary_bits = [8, 2]
seeds = [3]
[base.attack]
max_epochs = 7
[attackers.strong]
capacities = ["small", "large"]
[[headline]]
split = "features.3"
bits = 8
seeds = [0, 1, 2]
"""


def _read(tmp_path: Path, text: str, **options: str) -> Grid:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return read_grid(path, **options)


def test_attackers_are_the_base_s_with_their_overrides(tmp_path: Path) -> None:
    grid = _read(tmp_path, GRID)
    strong = grid.attackers["strong"]
    assert (strong.max_epochs, strong.capacities) == (7, ("small", "large"))
    assert grid.headline[0].seeds == (0, 1, 2)


def test_without_attackers_the_base_s_attacks(tmp_path: Path) -> None:
    grid = _read(tmp_path, 'name = "g"\nsplits = ["a"]\nbase.attack.max_epochs = 7\n')
    assert list(grid.attackers) == ["base"]
    assert grid.attackers["base"].max_epochs == 7


def test_a_base_by_path_is_beside_the_grid(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[train]\nepochs = 3\n")
    grid = _read(tmp_path, 'name = "g"\nbase = "base.toml"\nsplits = ["a"]\n')
    assert grid.base.train.epochs == 3


def test_given_weights_are_not_trained_and_data_is_overridden(tmp_path: Path) -> None:
    grid = _read(tmp_path, GRID, weights="w.safetensors", data="npz:d.npz")
    assert grid.base.model.weights == "w.safetensors"
    assert grid.base.train.epochs == 0
    assert grid.base.data.source == "npz:d.npz"


def test_a_grid_survives_its_json(tmp_path: Path) -> None:
    grid = _read(tmp_path, GRID)
    assert codec.decode(codec.encode(grid), Grid, "here") == grid


@pytest.mark.parametrize("name", ["sweep_demo.toml", "cifar100_sweep.toml"])
def test_the_shipped_grids_are_valid(name: str) -> None:
    grid = read_grid(RECIPES / name)
    assert isinstance(grid.base, Recipe)
    assert grid.headline


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[8, 2]", "[8, 5]", "boundary_bits"),
        ("[8, 2]", "[8, 8]", "bit width is named twice"),
        ('"features.1", ', '"features.3", ', "split is named twice"),
        ('"features.1"', '"../features"', "not a module path"),
        ("[attackers.strong]", "[attackers.'../x']", "lower-case"),
        ("capacities =", "margin_db = 9.0\ncapacities =", "the rule of the verdict"),
        ("capacities =", "seeds = [1]\ncapacities =", "seeds are the grid's"),
        ("capacities =", "capacity =", "capacity"),
        ("bits = 8", "bits = 4", "is not in the grid"),
        ("bits = 8", 'bits = 8\nattackers = ["weak"]', "no attacker is named weak"),
        ("seeds = [0, 1, 2]", "seeds = [0, 0]", "headline seed is named twice"),
        ("seeds = [3]", "seed = [3]", "unknown field"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GRID
    with pytest.raises(RecipeError, match=said):
        _read(tmp_path, GRID.replace(old, new))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml cannot be read"):
        read_grid(tmp_path / "nowhere.toml")
