"""What every attack has in common: a target, bounds, scoring. A family writes ``run`` alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attack.features import Target
from attack.metrics import Scores, as_stored_images, score
from attack.recovery import RecoveryMeter
from records.attack import Candidate, Level, Recovery
from records.errors import ArtifactError


@dataclass(frozen=True)
class Attempt:
    """What a family's ``run`` hands to the base class.

    Attributes:
        images: float32 (N, 3, H, W), reconstructions of the victims, any range.
        candidates: everything that was tried.
        chosen: which of them made ``images``.
    """

    images: NDArray[np.float32]
    candidates: tuple[Candidate, ...]
    chosen: int


@dataclass(frozen=True)
class Outcome:
    """A scored attack.

    Attributes:
        level: of the attacker.
        seed: of the attacker.
        candidates: everything that was tried.
        chosen: index of the candidate used.
        images: uint8 (N, H, W, 3), the reconstructions rounded for looking at.
        scores: figures of each attacked victim, from the unrounded reconstructions.
        recovery: re-identification and labels, None where it is not measured.
        queries: training pairs of A3, None for the other levels.
    """

    level: Level
    seed: int
    candidates: tuple[Candidate, ...]
    chosen: int
    images: NDArray[np.uint8]
    scores: Scores
    recovery: Recovery | None = None
    queries: int | None = None


class Attack(ABC):
    """One attacker; settings in the constructor, data in the call."""

    level: ClassVar[Level]
    #: Training pairs of a budgeted attacker.
    queries: int | None = None

    @abstractmethod
    def run(self, target: Target, seed: int) -> Attempt:
        """Reconstruct the target's victims, seeing its features and the attacker's images only."""

    def attack(
        self,
        target: Target,
        victims: NDArray[np.float32],
        seed: int,
        meter: RecoveryMeter | None = None,
    ) -> Outcome:
        """Run the attack, clip its images to [0, 1] and score them.

        Args:
            target: the artifact's outputs.
            victims: float32 (N, 3, H, W) in [0, 1]: for scoring, ``run`` never sees them.
            seed: of the attacker.
            meter: measures what else is recovered.

        Raises:
            ArtifactError: the attack gave another shape, or a value that is not finite.
        """
        attempt = self.run(target, seed)
        images = attempt.images
        if images.shape != victims.shape or not np.isfinite(images).all():
            raise ArtifactError(
                f"attack {self.level} on {target.name} gave {images.shape} images that are not "
                f"finite or not of the victims' shape {victims.shape}"
            )
        np.clip(images, 0.0, 1.0, out=images)
        stored = as_stored_images(images)
        return Outcome(
            level=self.level,
            seed=seed,
            candidates=attempt.candidates,
            chosen=attempt.chosen,
            images=stored,
            scores=score(victims, images),
            recovery=None if meter is None else meter.measure(images, stored),
            queries=self.queries,
        )
