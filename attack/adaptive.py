"""A1: decoders trained on the artifact's own outputs, from scratch and starting from A0's."""

from __future__ import annotations

from typing import ClassVar

from attack.base import Attack, Attempt
from attack.features import Target
from attack.inversion import DecoderFamily, Tried, choose
from attack.static import StaticAttack
from attack.training import reconstruct
from records.attack import Level


class AdaptiveAttack(Attack):
    """The attacker who can run the exported artifact on auxiliary images.

    Chooses by held-out loss on the artifact's outputs among A0's decoder unchanged, the whole
    family from scratch, and A0's best trained decoder fine-tuned: so it is never weaker than A0
    there.
    """

    level: ClassVar[Level] = "A1"

    def __init__(self, family: DecoderFamily, static: StaticAttack) -> None:
        """Adapt ``static``'s decoders, and train new ones of ``family``."""
        self._family = family
        self._static = static

    def tried(self, target: Target, seed: int) -> tuple[Tried, ...]:
        """Return every decoder that is tried on the target's outputs for the attacker's images."""
        family, name = self._family, f"A1 on {target.name}"
        starts = self._static.decoders(seed)
        return (
            family.unchanged(target.attacker, seed, starts[choose(starts)]),
            *family.from_scratch(target.attacker, seed, name),
            *family.fine_tuned(target.attacker, seed, _best_trained(starts), name),
        )

    def best(self, target: Target, seed: int) -> Tried:
        """Return the decoder with the lowest held-out loss."""
        tried = self.tried(target, seed)
        return tried[choose(tried)]

    def run(self, target: Target, seed: int) -> Attempt:
        """Train on the target's outputs for the attacker's images; reconstruct with the best."""
        tried = self.tried(target, seed)
        chosen = choose(tried)
        return Attempt(
            images=reconstruct(tried[chosen].decoder, target.victim),
            candidates=tuple(t.candidate for t in tried),
            chosen=chosen,
        )


def _best_trained(tried: tuple[Tried, ...]) -> tuple[Tried, ...]:
    """Return the trained decoder with the lowest loss, alone; none where a closed form was exact.

    Fine-tuning the weaker ones too would cost half a training each.
    """
    trained = tuple(one for one in tried if one.decoder.trunk is not None)
    return (trained[choose(trained)],) if trained else ()
