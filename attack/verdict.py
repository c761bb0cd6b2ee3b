"""HOLDS, DENIED or INCONCLUSIVE: a paired bootstrap of max-leak(FP32) − max-leak(artifact)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from records.attack import ArtifactVerdict, Gate, Recovery, Verdict
from records.recipe import AttackRecipe

_RESAMPLES_AT_ONCE = 100
#: Below it, re-identification is not put down to luck.
_GUESSING_P = 0.01
#: Which of several verdicts stands for all.
_WORST_FIRST: tuple[Verdict, ...] = ("DENIED", "INCONCLUSIVE", "HOLDS")

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Advantage:
    """How much less an artifact leaks than FP32, in dB, with one-sided bounds."""

    estimate: float
    lower: float
    upper: float


def advantages(
    psnr: Mapping[str, Values], baseline: str, recipe: AttackRecipe, first: int | None = None
) -> dict[str, Advantage]:
    """Return the advantage of every artifact over the baseline.

    Each resample draws victims with replacement and attacker seeds with replacement, the same
    ones for every artifact and level (paired); max-leak is taken anew in each resample, as the
    highest level mean. Percentile bounds (Efron and Tibshirani 1993, ch. 13 and 8.3 for pairs).

    Args:
        psnr: artifact name → dB whose mean over victims is a level's mean, see
            `attack.level_means.values_of`; float64 (levels, seeds, victims), all of one shape.
        baseline: name of the FP32 artifact.
        recipe: confidence, resamples, and the seed of the first attacker.
        first: where A2 attacked the first so many victims only: these and the others are resampled
            apart, so that every resample has as many of both (Efron and Tibshirani 1993, ch. 8.4).
    """
    names = list(psnr)
    stacked = np.stack([psnr[name] for name in names])
    leaks = _resampled_leaks(stacked, recipe, first)
    observed = stacked.mean((2, 3)).max(1)
    fp32 = names.index(baseline)
    gains = leaks[:, fp32, None] - leaks
    low, high = np.quantile(gains, [1.0 - recipe.confidence, recipe.confidence], axis=0)
    return {
        name: Advantage(float(observed[fp32] - observed[k]), float(low[k]), float(high[k]))
        for k, name in enumerate(names)
    }


def _resampled_leaks(stacked: Values, recipe: AttackRecipe, first: int | None) -> Values:
    """Return max-leak of every resample: (artifacts, levels, seeds, N) → (resamples, artifacts)."""
    artifacts, levels, seeds, victims = stacked.shape
    rng = np.random.default_rng((recipe.seeds[0], 2))
    columns = stacked.reshape(-1, victims).T
    parts = []
    for start in range(0, recipe.bootstrap_resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, recipe.bootstrap_resamples - start)
        weights = np.stack([_draw(rng, victims, first) for _ in range(size)])
        means = (weights @ columns / victims).reshape(size, artifacts, levels, seeds)
        drawn = rng.integers(seeds, size=(size, 1, 1, seeds))
        parts.append(np.take_along_axis(means, drawn, axis=3).mean(3).max(2))
    return np.concatenate(parts)


def _draw(rng: np.random.Generator, victims: int, first: int | None) -> NDArray[np.intp]:
    """Return how often each victim is drawn, int (victims,)."""
    if first is None or first == victims:
        return np.bincount(rng.integers(victims, size=victims), minlength=victims)
    rest = victims - first
    return np.concatenate(
        [np.bincount(rng.integers(n, size=n), minlength=n) for n in (first, rest)]
    )


def verdict_on(
    artifact: str,
    advantage: Advantage,
    recipe: AttackRecipe,
    failed: Sequence[Gate],
    recoveries: Sequence[Recovery] = (),
) -> ArtifactVerdict:
    """Return the verdict on one artifact from its advantage and the gates that concern it.

    Args:
        artifact: its name.
        advantage: in dB.
        recipe: the margin.
        failed: failed controls and this artifact's failed drift gates; any makes a verdict void.
        recoveries: what the attackers recovered from the artifact beside pixels: HOLDS compares
            with FP32, and says so where the pictures are recognised all the same.
    """
    verdict, reason = _decide(advantage, recipe.margin_db)
    if verdict == "HOLDS":
        reason += _recognised(recoveries)
    if failed:
        names = ", ".join(sorted({gate.name for gate in failed}))
        verdict, reason = "INCONCLUSIVE", f"no verdict: failed {names}"
    return ArtifactVerdict(
        artifact=artifact,
        verdict=verdict,
        advantage_db=advantage.estimate,
        lower_db=advantage.lower,
        upper_db=advantage.upper,
        reason=reason,
    )


def _decide(advantage: Advantage, margin: float) -> tuple[Verdict, str]:
    if advantage.lower > margin:
        return "HOLDS", (
            f"the strongest attacker gets at least {advantage.lower:.2f} dB less than from FP32; "
            f"the margin is {margin:g} dB"
        )
    if advantage.upper < margin:
        return "DENIED", (
            f"the strongest attacker gets at most {advantage.upper:.2f} dB less than from FP32; "
            f"the margin is {margin:g} dB"
        )
    return "INCONCLUSIVE", (
        f"the margin of {margin:g} dB lies between the bounds {advantage.lower:.2f} and "
        f"{advantage.upper:.2f} dB"
    )


def _recognised(recoveries: Sequence[Recovery]) -> str:
    """Return what to add to HOLDS where re-identification beats guessing (binomial test)."""
    most = max(recoveries, key=lambda r: r.reidentified, default=None)
    if most is None:
        return ""
    hits = round(most.reidentified * most.probes)
    # P(X ≥ hits), one-sided; scipy.stats has the test by name, and takes seconds to import.
    if bdtrc(hits - 1, most.probes, 1.0 / most.gallery) >= _GUESSING_P:
        return ""
    return (
        f"; that is less than FP32 leaks, not nothing: {hits} of {most.probes} reconstructions are "
        f"still recognised among {most.gallery} pictures"
    )


def worst(verdicts: Sequence[ArtifactVerdict]) -> Verdict:
    """Return DENIED when any is, else INCONCLUSIVE when any is or there is none, else HOLDS."""
    present = {v.verdict for v in verdicts}
    return next((v for v in _WORST_FIRST if v in present), "INCONCLUSIVE")
