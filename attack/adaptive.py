"""A1: decoders trained on the artifact's own outputs, from scratch and starting from A0's."""

from __future__ import annotations

from typing import ClassVar

from attack.base import Attack, Attempt
from attack.features import Target
from attack.inversion import DecoderFamily, choose
from attack.static import StaticAttack
from attack.training import reconstruct
from records.attack import Level


class AdaptiveAttack(Attack):
    """The attacker who can run the exported artifact on auxiliary images.

    Chooses by held-out loss on the artifact's outputs among A0's decoder unchanged, the whole
    family from scratch, and A0's trained decoders fine-tuned: so it is never weaker than A0 there.
    """

    level: ClassVar[Level] = "A1"

    def __init__(self, family: DecoderFamily, static: StaticAttack) -> None:
        """Adapt ``static``'s decoders, and train new ones of ``family``."""
        self._family = family
        self._static = static

    def run(self, target: Target, seed: int) -> Attempt:
        """Train on the target's outputs for the attacker's images; reconstruct with the best."""
        family, name = self._family, f"A1 on {target.name}"
        starts = self._static.decoders(seed)
        tried = (
            family.unchanged(target.attacker, seed, starts[choose(starts)]),
            *family.from_scratch(target.attacker, seed, name),
            *family.fine_tuned(target.attacker, seed, starts, name),
        )
        chosen = choose(tried)
        return Attempt(
            images=reconstruct(tried[chosen].decoder, target.victim),
            candidates=tuple(t.candidate for t in tried),
            chosen=chosen,
        )
