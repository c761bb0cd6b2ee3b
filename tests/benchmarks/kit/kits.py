"""A kit of the tiny network that is measured in a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.kit.build import BuiltKit, build_kit
from records.recipe import BenchRecipe
from runtime_check.victims import Victims

if TYPE_CHECKING:
    from baseline.datasets import ImageSplits
    from export.bundle import Bundle

#: Far below the floors of a recipe, which are checked where one is read.
QUICK = BenchRecipe(threads=(1,), warmup_runs=1, warmup_seconds=0.0, runs=30, seconds=0.01)


def quick_kit(
    bundle: Bundle, splits: ImageSplits, out: Path, *, images: int = 20, replace: bool = False
) -> BuiltKit:
    """Build a kit with the first victims."""
    victims = Victims(splits.victim.take(np.arange(images)), "npz:tiny", first_of=64)
    return build_kit(bundle, victims, out, recipe=QUICK, replace=replace)
