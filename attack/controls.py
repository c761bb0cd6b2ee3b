"""What an attack's figures are read against, and the gates without which there is no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attack.base import Outcome
from attack.features import Target, pass_through
from attack.inversion import DecoderFamily
from attack.metrics import Images, Scores, score, summarise
from attack.static import StaticAttack
from baseline.images import ImageSet
from records.attack import Controls, Gate
from records.manifest import Preprocessing
from records.recipe import AttackRecipe

#: Enough images to solve and to judge a pass-through edge; more would cost memory, not certainty.
CEILING_IMAGES = 2000
#: Noise that is allowed between two figures that cannot really differ in that direction, in dB.
TOLERANCE_DB = 0.1
FLOOR_AGREEMENT_DB = 1e-5


@dataclass(frozen=True)
class Scale:
    """The figures that need no attack.

    Attributes:
        floor: every victim answered with the attacker's mean image.
        mean_colour: every victim answered with its own mean colour.
        numpy_floor_db: the floor once more, in plain numpy from the stored images.
    """

    floor: Scores
    mean_colour: Scores
    numpy_floor_db: float

    @property
    def floor_db(self) -> float:
        """Mean per-image PSNR of the floor in dB."""
        return float(self.floor.psnr.mean())


def scale_of(attacker: ImageSet, victim: ImageSet, victims: Images) -> Scale:
    """Return floor and scale of a victim set.

    Args:
        attacker: its mean image is the floor's answer.
        victim: as stored.
        victims: the same, float32 (N, 3, H, W) in [0, 1].
    """
    mean = attacker.images.mean(0, dtype=np.float64).transpose(2, 0, 1) / 255.0
    flat = np.broadcast_to(mean.astype(np.float32), victims.shape)
    colour = np.broadcast_to(
        victims.mean((2, 3), dtype=np.float64, keepdims=True).astype(np.float32), victims.shape
    )
    return Scale(
        floor=score(victims, np.ascontiguousarray(flat)),
        mean_colour=score(victims, np.ascontiguousarray(colour)),
        numpy_floor_db=numpy_floor_db(attacker.images, victim.images),
    )


def numpy_floor_db(attacker: NDArray[np.uint8], victim: NDArray[np.uint8]) -> float:
    """Return the mean per-image PSNR in dB of the attacker's mean image, from stored images.

    Written without any code of the attack, so that a fault in its scaling or axes shows.

    Args:
        attacker: uint8 (M, H, W, 3).
        victim: uint8 (N, H, W, 3).
    """
    mean = attacker.mean(axis=0, dtype=np.float64)
    mse = [float(np.mean((image.astype(np.float64) - mean) ** 2)) for image in victim]
    return float(np.mean([10.0 * np.log10(255.0**2 / max(m, 255.0**2 * 1e-10)) for m in mse]))


def ceiling_of(
    family: DecoderFamily,
    attacker: ImageSet,
    victim: ImageSet,
    victims: Images,
    spec: Preprocessing,
    seed: int,
) -> Outcome:
    """Attack an edge that sends its own input, with the same code as every artifact.

    Args:
        family: decoders for exactly these attacker images.
        attacker: at most ``CEILING_IMAGES`` are needed.
        victim: to be reconstructed.
        victims: the same, float32 (N, 3, H, W) in [0, 1].
        spec: what the edge would be fed.
        seed: of the attacker.
    """
    target = Target(
        name="pass-through",
        precision="fp32",
        runtime="none",
        mode="none",
        boundary="float",
        attacker=pass_through(attacker, spec),
        victim=pass_through(victim, spec),
    )
    return StaticAttack(family, target).attack(target, victims, seed)


def controls_of(
    scale: Scale,
    ceiling: Outcome,
    results: dict[str, tuple[Outcome, ...]],
    baseline: str,
    recipe: AttackRecipe,
) -> Controls:
    """Return the record of all controls with their gates.

    Args:
        scale: floor and scale.
        ceiling: the attack on the pass-through edge.
        results: artifact name → outcomes of every level and seed.
        baseline: name of the FP32 artifact.
        recipe: the limit of the ceiling.
    """
    return Controls(
        floor=summarise(scale.floor, scale.floor_db),
        mean_colour=summarise(scale.mean_colour, scale.floor_db),
        ceiling=summarise(ceiling.scores, scale.floor_db),
        ceiling_candidates=ceiling.candidates,
        gates=tuple(_gates(scale, ceiling, results, baseline, recipe)),
    )


def _gates(
    scale: Scale,
    ceiling: Outcome,
    results: dict[str, tuple[Outcome, ...]],
    baseline: str,
    recipe: AttackRecipe,
) -> Iterator[Gate]:
    difference = abs(scale.floor_db - scale.numpy_floor_db)
    yield Gate(
        name="floor",
        measured=difference,
        relation="≤",
        limit=FLOOR_AGREEMENT_DB,
        passed=difference <= FLOOR_AGREEMENT_DB,
        meaning="the mean-image floor agrees with the same figure in plain numpy",
    )
    reached = float(ceiling.scores.psnr.mean())
    yield Gate(
        name="ceiling",
        measured=reached,
        relation=">",
        limit=recipe.ceiling_db,
        passed=reached > recipe.ceiling_db,
        meaning="a pass-through edge is reconstructed by the same attack code",
    )
    leak = max(mean_psnr(results[baseline], level) for level in recipe.levels) - scale.floor_db
    yield Gate(
        name="attack_reaches_floor",
        artifact=baseline,
        measured=leak,
        relation="≥",
        limit=-TOLERANCE_DB,
        passed=leak >= -TOLERANCE_DB,
        meaning="the attack on FP32 features is not worse than answering with the mean image",
    )
    if "A1" in recipe.levels:
        for name, outcomes in results.items():
            gain = mean_psnr(outcomes, "A1") - mean_psnr(outcomes, "A0")
            yield Gate(
                name="a1_not_weaker_than_a0",
                artifact=name,
                measured=gain,
                relation="≥",
                limit=-TOLERANCE_DB,
                passed=gain >= -TOLERANCE_DB,
                meaning="an attacker who adapts does not do worse than one who does not",
            )


def drift_gates(
    results: dict[str, tuple[Outcome, ...]],
    reference: str,
    artifacts: tuple[str, ...],
    recipe: AttackRecipe,
) -> Iterator[Gate]:
    """Yield one gate per artifact and level: the export must not change what leaks.

    Args:
        results: artifact name → outcomes of every level and seed.
        reference: name of eager INT8.
        artifacts: names of the exported INT8 artifacts.
        recipe: levels and tolerance.
    """
    for name in artifacts:
        for level in recipe.levels:
            drift = abs(mean_psnr(results[name], level) - mean_psnr(results[reference], level))
            yield Gate(
                name=f"export_drift_{level}",
                artifact=name,
                measured=drift,
                relation="≤",
                limit=recipe.drift_tolerance_db,
                passed=drift <= recipe.drift_tolerance_db,
                meaning=f"{level} leaks the same from the artifact as from eager INT8",
            )


def mean_psnr(outcomes: tuple[Outcome, ...], level: str) -> float:
    """Return a level's mean per-image PSNR in dB over victims and seeds."""
    return float(np.mean([o.scores.psnr.mean() for o in outcomes if o.level == level]))
