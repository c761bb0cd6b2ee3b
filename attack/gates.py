"""The gates without which there is no verdict: what cannot really differ must not differ."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from attack.base import Outcome
from attack.controls import References, Scale
from attack.level_means import Attacker, Outcomes, attackers_of, by, mean_db, strongest
from records.attack import Gate
from records.recipe import AttackRecipe

#: Noise that is allowed between two figures that cannot really differ in that direction, in dB.
TOLERANCE_DB = 0.1
FLOOR_AGREEMENT_DB = 1e-5

_A0, _A1, _A2 = Attacker("A0"), Attacker("A1"), Attacker("A2")


def control_gates(
    scale: Scale,
    references: References,
    results: dict[str, Outcomes],
    baseline: str,
    recipe: AttackRecipe,
) -> Iterator[Gate]:
    """Yield every gate of the controls; of artifacts that share outcomes, each has its own.

    Args:
        scale: floor and scale.
        references: the attacks on what is no artifact.
        results: artifact name → outcomes of every attacker and seed.
        baseline: name of the FP32 artifact.
        recipe: the limit of the ceiling, levels.
    """
    yield _floor(scale)
    yield _ceiling(references.ceiling, recipe)
    leak = mean_db(results[baseline], strongest(results[baseline])) - scale.floor_db
    yield _at_least(
        "attack_reaches_floor",
        baseline,
        leak,
        "the attack on FP32 features is not worse than answering with the mean image",
    )
    yield from _reference_gates(references, results, baseline)
    for name, outcomes in results.items():
        yield from _level_gates(name, outcomes, recipe)


def _floor(scale: Scale) -> Gate:
    difference = abs(scale.floor_db - scale.numpy_floor_db)
    return Gate(
        name="floor",
        measured=difference,
        relation="≤",
        limit=FLOOR_AGREEMENT_DB,
        passed=difference <= FLOOR_AGREEMENT_DB,
        meaning="the mean-image floor agrees with the same figure in plain numpy",
    )


def _ceiling(ceiling: Outcome, recipe: AttackRecipe) -> Gate:
    reached = float(ceiling.scores.psnr.mean())
    return Gate(
        name="ceiling",
        measured=reached,
        relation=">",
        limit=recipe.ceiling_db,
        passed=reached > recipe.ceiling_db,
        meaning="a pass-through edge is reconstructed by the same attack code",
    )


def _reference_gates(
    references: References, results: dict[str, Outcomes], baseline: str
) -> Iterator[Gate]:
    # A decoder that never saw this artifact's outputs may fail on them for that reason alone.
    adaptive = any(outcome.level == "A1" for outcome in results[baseline])
    for name, logits in references.logits.items() if adaptive else ():
        # The server computes its logits from the boundary: who has one has the other.
        gain = _best_decoded(results[name]) - float(logits.scores.psnr.mean())
        yield _at_least(
            "boundary_leaks_no_less_than_logits",
            name,
            gain,
            "the boundary leaks at least what the server's answer to it leaks",
        )
    if references.bits16 is not None and references.bits32 is not None:
        fine, full = (o.scores.psnr.mean() for o in (references.bits16, references.bits32))
        difference = abs(float(fine - full))
        yield Gate(
            name="bits16_as_fp32",
            artifact=baseline,
            measured=difference,
            relation="≤",
            limit=TOLERANCE_DB,
            passed=difference <= TOLERANCE_DB,
            meaning="features in 16 bits leak as FP32 features do, to the same decoder",
        )


def _level_gates(name: str, outcomes: Outcomes, recipe: AttackRecipe) -> Iterator[Gate]:
    if "A1" not in recipe.levels:
        return
    yield _at_least(
        "a1_not_weaker_than_a0",
        name,
        mean_db(outcomes, _A1) - mean_db(outcomes, _A0),
        "an attacker who adapts does not do worse than one who does not",
    )
    if "A2" in recipe.levels:
        yield _at_least(
            "a2_not_weaker_than_a1",
            name,
            white_box_gain(outcomes),
            "descent from A1's output does not end worse, on the same images",
        )
    curve = query_curve(outcomes)
    if len(curve) > 1:
        yield _at_least(
            "more_queries_not_weaker",
            name,
            float(np.diff([db for _, db in curve]).min()),
            "the smallest step from a query budget to the next, and to A1, is no step down",
        )
    if len(recipe.capacities) > 1:
        yield _at_least(
            "more_capacity_not_weaker",
            name,
            capacity_gain(by(outcomes, _A1), recipe),
            "the smallest step from a decoder's capacity to the next, on held-out images",
        )


def white_box_gain(outcomes: Outcomes) -> float:
    """Return A2's mean dB minus A1's on the images that A2 attacked, over seeds."""
    gains = [
        two.scores.psnr.mean() - one.scores.psnr[: len(two.scores.psnr)].mean()
        for one, two in zip(by(outcomes, _A1), by(outcomes, _A2), strict=True)
    ]
    return float(np.mean(gains))


def query_curve(outcomes: Outcomes) -> tuple[tuple[int | None, float], ...]:
    """Return training pairs and mean dB of A3's budgets, ascending, and last of A1 (None)."""
    budgets = [a for a in attackers_of(outcomes) if a.level == "A3"]
    points = [(a.queries, mean_db(outcomes, a)) for a in budgets]
    return (*points, (None, mean_db(outcomes, _A1))) if points else ()


def capacity_gain(adaptive: Outcomes, recipe: AttackRecipe) -> float:
    """Return the smallest gain in dB of held-out loss from a capacity to the next larger one.

    Over seeds the mean; decoders from scratch only. 0 where none was trained, because a closed form
    was exact.
    """
    steps = []
    for outcome in adaptive:
        scratch = [c for c in outcome.candidates if c.start == "scratch"]
        losses = [c.best_val_loss for c in sorted(scratch, key=lambda c: c.parameters)]
        decibels = [-10.0 * math.log10(max(loss, 1e-10)) for loss in losses]
        if len(decibels) == len(recipe.capacities):
            steps.append(np.diff(decibels))
    return float(np.mean(steps, axis=0).min()) if steps else 0.0


def _best_decoded(outcomes: Outcomes) -> float:
    """Return the strongest of A0 and A1 with the first seed, as the logits were attacked."""
    first = outcomes[0].seed
    means = [o.scores.psnr.mean() for o in outcomes if o.level in ("A0", "A1") and o.seed == first]
    return float(max(means))


def _at_least(name: str, artifact: str, measured: float, meaning: str) -> Gate:
    return Gate(
        name=name,
        artifact=artifact,
        measured=measured,
        relation="≥",
        limit=-TOLERANCE_DB,
        passed=measured >= -TOLERANCE_DB,
        meaning=meaning,
    )


def drift_gates(
    results: dict[str, Outcomes],
    reference: str,
    artifacts: tuple[str, ...],
    recipe: AttackRecipe,
) -> Iterator[Gate]:
    """Yield one gate per artifact and level: the export must not change what leaks.

    Only of the levels that attack every victim with all of the attacker's images: the noise of A2's
    few victims and of A3's few pairs is not that of an export.

    Args:
        results: artifact name → outcomes of every attacker and seed.
        reference: name of eager INT8.
        artifacts: names of the exported INT8 artifacts.
        recipe: levels and tolerance.
    """
    levels = [level for level in recipe.levels if level not in ("A2", "A3")]
    for name in artifacts:
        for level in levels:
            attacker = Attacker(level)
            drift = abs(mean_db(results[name], attacker) - mean_db(results[reference], attacker))
            yield Gate(
                name=f"export_drift_{level}",
                artifact=name,
                measured=drift,
                relation="≤",
                limit=recipe.drift_tolerance_db,
                passed=drift <= recipe.drift_tolerance_db,
                meaning=f"{level} leaks the same from the artifact as from eager INT8",
            )
