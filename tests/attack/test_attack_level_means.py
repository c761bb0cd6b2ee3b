"""A level that attacked some of the victims is compared on the same images, in mean and bounds."""

from __future__ import annotations

import numpy as np
import pytest

from attack.base import Outcome
from attack.level_means import (
    Attacker,
    attackers_of,
    by,
    fewest_victims,
    mean_db,
    strongest,
    values_of,
)
from attack.metrics import Scores
from attack.verdict import advantages
from records.attack import Level
from records.recipe import AttackRecipe


def outcome(level: Level, db: np.ndarray, seed: int = 0, queries: int | None = None) -> Outcome:
    return Outcome(
        level=level,
        seed=seed,
        candidates=(),
        chosen=0,
        images=np.zeros((len(db), 1, 1, 3), np.uint8),
        scores=Scores(mse=10 ** (-db / 10), ssim=np.zeros(len(db))),
        queries=queries,
    )


def outcomes(gain: float, few: int = 50, victims: int = 400) -> tuple[Outcome, ...]:
    rng = np.random.default_rng(0)
    made = []
    for seed in (0, 1):
        a1 = rng.normal(20, 3, victims)
        # The first victims are the easy ones: their plain mean is no estimate of all.
        a1[:few] += 5
        a2 = a1[:few] + gain + rng.normal(0, 0.2, few)
        made += [outcome("A0", a1 - 1, seed), outcome("A1", a1, seed), outcome("A2", a2, seed)]
    return tuple(made)


def test_easy_victims_are_not_taken_for_a_strong_attack() -> None:
    weak = outcomes(-0.5)
    assert by(weak, Attacker("A2"))[0].scores.psnr.mean() > mean_db(weak, Attacker("A1")) + 3
    assert strongest(weak) == Attacker("A1")
    strong = outcomes(1.0)
    assert strongest(strong) == Attacker("A2")
    gained = mean_db(strong, Attacker("A2")) - mean_db(strong, Attacker("A1"))
    assert gained == pytest.approx(1.0, abs=0.1)
    assert fewest_victims(strong) == 50
    assert attackers_of(strong) == (Attacker("A0"), Attacker("A1"), Attacker("A2"))


def test_a_level_that_attacked_everybody_is_taken_as_it_is() -> None:
    db = np.linspace(10, 30, 7)
    both = (outcome("A1", db), outcome("A3", db - 1, queries=10), outcome("A3", db, queries=20))
    assert np.allclose(values_of(both, Attacker("A3", 10)), [db - 1])
    assert attackers_of(both)[1:] == (Attacker("A3", 10), Attacker("A3", 20))


def test_the_bounds_are_those_of_an_explicit_bootstrap_of_both_groups() -> None:
    rng = np.random.default_rng(5)
    fp32 = outcomes(2.0)
    int8 = tuple(
        outcome(o.level, o.scores.psnr - 1 + rng.normal(0, 1, len(o.scores.psnr)), o.seed)
        for o in fp32
    )
    recipe = AttackRecipe(bootstrap_resamples=4000, seeds=(0, 1))
    psnr = {
        name: np.stack([values_of(o, a) for a in attackers_of(o)])
        for name, o in (("fp32", fp32), ("int8", int8))
    }
    got = advantages(psnr, "fp32", recipe, 50)["int8"]

    def leak(
        found: tuple[Outcome, ...], pick: np.ndarray, few: np.ndarray, draw: np.ndarray
    ) -> float:
        means = {}
        for level in ("A0", "A1", "A2"):
            own = [o.scores.psnr for o in found if o.level == level]
            means[level] = [x[np.concatenate([few, pick])].mean() for x in own if len(x) == 400]
        a1 = [o.scores.psnr for o in found if o.level == "A1"]
        a2 = [o.scores.psnr for o in found if o.level == "A2"]
        gains = [y[few].mean() - x[few].mean() for x, y in zip(a1, a2, strict=True)]
        means["A2"] = [m + g for m, g in zip(means["A1"], gains, strict=True)]
        return max(float(np.mean([m[s] for s in draw])) for m in means.values())

    found = []
    for _ in range(4000):
        few, pick = rng.integers(50, size=50), rng.integers(50, 400, size=350)
        # The seeds are drawn once a resample, as the victims are: paired.
        draw = rng.integers(2, size=2)
        found.append(leak(fp32, pick, few, draw) - leak(int8, pick, few, draw))
    low, high = np.percentile(found, [5, 95])
    assert got.lower == pytest.approx(low, abs=0.03)
    assert got.upper == pytest.approx(high, abs=0.03)
    everybody = np.arange(400)
    plain = leak(fp32, everybody[50:], everybody[:50], np.array([0, 1])) - leak(
        int8, everybody[50:], everybody[:50], np.array([0, 1])
    )
    assert got.estimate == pytest.approx(plain, abs=1e-9)
