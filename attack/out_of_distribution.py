"""A4: the adaptive attacker whose auxiliary images are of another source than the victims."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from attack.base import Attack, Attempt
from attack.features import Target
from attack.inversion import DecoderFamily, choose
from attack.training import reconstruct
from baseline.datasets import load_splits
from baseline.images import ImageSet
from records.attack import Level
from records.errors import DataError
from records.recipe import DataRecipe


class OutOfDistributionAttack(Attack):
    """Decoders trained on what the artifact sends for foreign images."""

    level: ClassVar[Level] = "A4"

    def __init__(self, family: DecoderFamily) -> None:
        """Use ``family``, which was made for the foreign images."""
        self._family = family

    def run(self, target: Target, seed: int) -> Attempt:
        """Train on a target whose attacker outputs are of the foreign images."""
        tried = self._family.from_scratch(target.attacker, seed, f"A4 on {target.name}")
        chosen = choose(tried)
        return Attempt(
            images=reconstruct(tried[chosen].decoder, target.victim),
            candidates=tuple(t.candidate for t in tried),
            chosen=chosen,
        )


def foreign_images(source: str, attacked: str, native_size: int, count: int) -> ImageSet:
    """Return at most ``count`` images of another source, from its train side.

    Args:
        source: as ``data.source`` of a recipe; nothing is downloaded.
        attacked: the source of the victims.
        native_size: side in pixels that the images must have.
        count: the attacker's in-distribution images; more would compare more than the source.

    Raises:
        DataError: it is the attacked source itself, or cannot be read.
    """
    if source == attacked:
        raise DataError(
            f"A4 needs images of another source than the victims', and both are {source}; set "
            "ood_source (--ood-source) to cifar100, npz:FILE or folder:DIR, or leave A4 out"
        )
    recipe = DataRecipe(source=source, native_size=native_size, attacker_pool="train")
    images = load_splits(recipe).attacker
    return images.take(np.arange(min(count, len(images))))
