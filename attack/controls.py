"""What an attack's figures are read against: floor, scale, and attacks on what is no artifact."""

from __future__ import annotations

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

#: Enough images to solve and to judge a pass-through edge; more would cost memory, not certainty.
CEILING_IMAGES = 2000


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


@dataclass(frozen=True)
class References:
    """Attacks on what is no artifact.

    Attributes:
        ceiling: on a pass-through edge.
        logits: by artifact, on the server's answers to it; empty when left out.
        bits16: on FP32 features in 16 bits, None when left out.
        bits32: the same decoders on FP32 features, for comparison.
    """

    ceiling: Outcome
    logits: dict[str, Outcome]
    bits16: Outcome | None
    bits32: Outcome | None


def controls_of(
    scale: Scale, references: References, original_top1: float, gates: tuple[Gate, ...]
) -> Controls:
    """Return the record of all controls with their gates.

    Args:
        scale: floor and scale.
        references: the attacks on what is no artifact.
        original_top1: share of the victims whose class the whole network finds.
        gates: of `attack.gates`.
    """
    floor, bits16 = scale.floor_db, references.bits16
    return Controls(
        floor=summarise(scale.floor, floor),
        mean_colour=summarise(scale.mean_colour, floor),
        ceiling=summarise(references.ceiling.scores, floor),
        ceiling_candidates=references.ceiling.candidates,
        logits={name: summarise(o.scores, floor) for name, o in references.logits.items()},
        bits16=None if bits16 is None else summarise(bits16.scores, floor),
        original_top1=original_top1,
        gates=gates,
    )
