"""Attacks that are no attack on an artifact: on the server's logits, and on 16-bit features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from attack.base import Outcome
from attack.features import FeatureTable, Target, float_table
from attack.inversion import DecoderFamily
from attack.metrics import Images
from attack.static import StaticAttack

_BATCH = 500
_MOST_STEPS = 2**16 - 1

Server = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def logits_of(target: Target, server: Server) -> Target:
    """Return what the server answers to a target's outputs, as a target of its own.

    Args:
        target: an artifact's outputs.
        server: float32 (N, *boundary) → logits, float32 (N, classes).
    """

    def answered(table: FeatureTable) -> FeatureTable:
        parts = [
            server(table.real(slice(start, start + _BATCH)).numpy())
            for start in range(0, len(table), _BATCH)
        ]
        return float_table(np.concatenate(parts))

    return dataclasses.replace(
        target,
        name=f"logits of {target.name}",
        attacker=answered(target.attacker),
        victim=answered(target.victim),
    )


def in_16_bits(target: Target) -> Target:
    """Return a target with its features rounded to 65,536 steps over the attacker's range."""
    real = target.attacker.real(slice(None)).numpy()
    low = float(min(real.min(), 0.0))
    step = max((float(real.max()) - low) / _MOST_STEPS, float(np.finfo(np.float32).tiny))

    def rounded(table: FeatureTable) -> FeatureTable:
        steps = np.rint((table.real(slice(None)).numpy().astype(np.float64) - low) / step)
        return float_table((np.clip(steps, 0, _MOST_STEPS) * step + low).astype(np.float32))

    return dataclasses.replace(
        target,
        name=f"{target.name} in 16 bits",
        attacker=rounded(target.attacker),
        victim=rounded(target.victim),
    )


def attacked(family: DecoderFamily, target: Target, victims: Images, seed: int) -> Outcome:
    """Train a family's decoders on a target's own outputs and reconstruct its victims."""
    return StaticAttack(family, target).attack(target, victims, seed)
