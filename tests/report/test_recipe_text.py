from __future__ import annotations

from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from records.recipe import DataRecipe, ExportRecipe, ModelRecipe, Recipe, TrainRecipe, read_recipe
from report.recipe_text import recipe_toml


def test_every_key_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(
        name='a "quoted" \\ name',
        data=DataRecipe(source="npz:/data/ä b.npz", victims=2000, attacker_pool="train"),
        model=ModelRecipe(image_size=64, mean=(0.5, 0.25, 1e-7)),
        export=ExportRecipe(
            splits=("features.3", "avgpool"), observers={"features.0": "mse", "mul_1": "fisher"}
        ),
    )
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_toml(recipe), encoding="utf-8")
    assert read_recipe(path) == recipe


@given(
    name=st.text(alphabet=st.characters(codec="utf-8")),
    rate=st.floats(min_value=1e-12, max_value=1e12),
)
def test_any_string_and_number_reads_back(name: str, rate: float) -> None:
    recipe = Recipe(name=name, train=TrainRecipe(learning_rate=rate))
    assert msgspec.toml.decode(recipe_toml(recipe).encode(), type=Recipe) == recipe
