"""A3: the adaptive attacker who may run the artifact on N images only."""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec

from attack.base import Attack, Attempt
from attack.decoder import CAPACITIES
from attack.features import Target
from attack.inversion import DecoderFamily, choose
from attack.training import reconstruct
from records.attack import Level
from records.recipe import AttackRecipe, Capacity


class QueryBudgetAttack(Attack):
    """Decoders of the smallest capacity, trained on the first ``queries`` attacker images."""

    level: ClassVar[Level] = "A3"

    def __init__(self, family: DecoderFamily, queries: int) -> None:
        """Use ``family``, which was made for the first ``queries`` attacker images."""
        self._family, self._few = family, queries
        self.queries = queries

    def run(self, target: Target, seed: int) -> Attempt:
        """Train on the target's outputs for so many images; reconstruct with the best."""
        name = f"A3 on {target.name}, {self._few} queries"
        tried = self._family.from_scratch(target.attacker.first(self._few), seed, name)
        chosen = choose(tried)
        return Attempt(
            images=reconstruct(tried[chosen].decoder, target.victim),
            candidates=tuple(t.candidate for t in tried),
            chosen=chosen,
        )


def budgets_below(recipe: AttackRecipe, attacker_images: int) -> tuple[int, ...]:
    """Return the budgets that are smaller than the attacker's set, for which A1 stands."""
    return tuple(budget for budget in recipe.query_budgets if budget < attacker_images)


def budget_recipe(recipe: AttackRecipe, queries: int, attacker_images: int) -> AttackRecipe:
    """Return A1's settings for fewer images: the smallest capacity, more epochs.

    An epoch has fewer steps: their number grows with the square root of what is missing, so that
    neither 100 images are passed six times nor ever so often as the whole set's steps ask for.
    """
    epochs = math.ceil(recipe.max_epochs * math.sqrt(attacker_images / queries))
    return msgspec.structs.replace(
        recipe, capacities=(smallest_capacity(recipe),), max_epochs=epochs
    )


def smallest_capacity(recipe: AttackRecipe) -> Capacity:
    """Return the smallest of the recipe's capacities."""
    return min(recipe.capacities, key=lambda c: CAPACITIES[c])
