"""A0: a decoder trained on FP32 features, applied to the artifact's outputs as it is."""

from __future__ import annotations

from typing import ClassVar

from attack.base import Attack, Attempt
from attack.features import Target
from attack.inversion import DecoderFamily, Tried, choose
from attack.training import reconstruct
from records.attack import Level


class StaticAttack(Attack):
    """The attacker of the original study: knows FP32 features of auxiliary images only."""

    level: ClassVar[Level] = "A0"

    def __init__(self, family: DecoderFamily, fp32: Target) -> None:
        """Attack with decoders of ``family`` trained on the outputs of ``fp32``."""
        self._family = family
        self._fp32 = fp32

    def decoders(self, seed: int) -> tuple[Tried, ...]:
        """Return every decoder that was tried on the FP32 features."""
        return self._family.from_scratch(self._fp32.attacker, seed, f"A0 on {self._fp32.name}")

    def run(self, target: Target, seed: int) -> Attempt:
        """Apply the FP32 decoder with the lowest held-out loss on FP32 features."""
        tried = self.decoders(seed)
        chosen = choose(tried)
        return Attempt(
            images=reconstruct(tried[chosen].decoder, target.victim),
            candidates=tuple(t.candidate for t in tried),
            chosen=chosen,
        )
