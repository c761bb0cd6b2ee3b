"""The verdict on planted leaks, its bounds against an explicit bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from attack.verdict import Advantage, advantages, verdict_on, worst
from records.attack import ArtifactVerdict, Gate, Recovery, Verdict
from records.recipe import AttackRecipe

RECIPE = AttackRecipe(bootstrap_resamples=500)


def leaks(mean: float, seeds: int = 1, victims: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = rng.normal(mean, 2.0, (1, 1, victims))
    return base + rng.normal(0, 0.2, (2, seeds, victims))


def decide(gap: float, noise: float = 0.2) -> tuple[Advantage, str]:
    fp32 = leaks(20.0)
    int8 = fp32 - gap + np.random.default_rng(9).normal(0, noise, fp32.shape)
    gained = advantages({"fp32": fp32, "int8": int8}, "fp32", RECIPE)["int8"]
    return gained, verdict_on("int8", gained, RECIPE, []).verdict


@pytest.mark.parametrize(
    ("gap", "expected"), [(6.0, "HOLDS"), (0.0, "DENIED"), (2.5, "DENIED"), (-1.0, "DENIED")]
)
def test_a_clear_gap_is_decided(gap: float, expected: str) -> None:
    gained, verdict = decide(gap)
    assert gained.estimate == pytest.approx(gap, abs=0.15)
    assert gained.lower <= gained.estimate <= gained.upper
    assert verdict == expected


def test_a_gap_at_the_margin_is_inconclusive() -> None:
    gained, verdict = decide(3.0, noise=4.0)
    assert gained.lower < 3.0 < gained.upper
    assert verdict == "INCONCLUSIVE"


def test_the_strongest_level_counts_not_a0_alone() -> None:
    fp32 = leaks(20.0)
    int8 = fp32.copy()
    int8[0] -= 8.0
    gained = advantages({"fp32": fp32, "int8": int8}, "fp32", RECIPE)["int8"]
    assert abs(gained.estimate) < 0.2
    assert verdict_on("int8", gained, RECIPE, []).verdict == "DENIED"


def test_the_bounds_are_those_of_an_explicit_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    fp32, int8 = leaks(20.0), leaks(20.0) - 3 + rng.normal(0, 3, (1, 1, 400))
    recipe = AttackRecipe(bootstrap_resamples=4000)
    got = advantages({"fp32": fp32, "int8": int8}, "fp32", recipe)["int8"]
    gains = []
    for _ in range(4000):
        pick = rng.integers(400, size=400)
        gains.append(fp32[:, 0, pick].mean(1).max() - int8[:, 0, pick].mean(1).max())
    low, high = np.percentile(gains, [5, 95])
    assert got.lower == pytest.approx(low, abs=0.04)
    assert got.upper == pytest.approx(high, abs=0.04)


def test_disagreeing_attacker_seeds_widen_the_bounds() -> None:
    fp32, int8 = leaks(20.0, seeds=2), leaks(17.0, seeds=2)
    alike = advantages({"fp32": fp32, "int8": int8}, "fp32", RECIPE)["int8"]
    int8[:, 0] += 2.0
    int8[:, 1] -= 2.0
    apart = advantages({"fp32": fp32, "int8": int8}, "fp32", RECIPE)["int8"]
    assert apart.estimate == pytest.approx(alike.estimate, abs=1e-9)
    assert apart.upper - apart.lower > 2 * (alike.upper - alike.lower)


def test_a_failed_gate_voids_the_verdict() -> None:
    gate = Gate(name="ceiling", measured=12.0, relation=">", limit=40.0, passed=False, meaning="x")
    got = verdict_on("int8", Advantage(6.0, 5.8, 6.2), RECIPE, [gate])
    assert got.verdict == "INCONCLUSIVE"
    assert "ceiling" in got.reason


def recovered(share: float, probes: int = 64, gallery: int = 500) -> Recovery:
    return Recovery(
        probes=probes, gallery=gallery, reidentified=share, label_top1=0.0, label_agreement=0.0
    )


@pytest.mark.parametrize(("share", "said"), [(0.0, False), (1 / 64, False), (0.5, True)])
def test_holds_says_where_pictures_are_recognised_all_the_same(share: float, said: bool) -> None:
    few, many = recovered(0.0), recovered(share)
    got = verdict_on("int8", Advantage(6.0, 5.8, 6.2), RECIPE, [], [few, many, few])
    assert got.verdict == "HOLDS"
    assert ("32 of 64 reconstructions are still recognised among 500" in got.reason) == said


@pytest.mark.parametrize(("probes", "gallery"), [(64, 500), (256, 20), (10, 2)])
def test_recognised_is_what_a_binomial_test_does_not_put_down_to_luck(
    probes: int, gallery: int
) -> None:
    said = set()
    for hits in range(probes + 1):
        one = recovered(hits / probes, probes, gallery)
        reason = verdict_on("int8", Advantage(6.0, 5.8, 6.2), RECIPE, [], [one]).reason
        p_value = binomtest(hits, probes, 1 / gallery, alternative="greater").pvalue
        assert ("still recognised" in reason) == (p_value < 0.01), hits
        said.add(p_value < 0.01)
    assert said == {False, True}


def test_denied_needs_no_word_of_recognised_pictures() -> None:
    got = verdict_on("int8", Advantage(0.1, 0.0, 0.2), RECIPE, [], [recovered(1.0)])
    assert got.verdict == "DENIED"
    assert "recognised" not in got.reason


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["HOLDS", "DENIED", "INCONCLUSIVE"], "DENIED"),
        (["HOLDS", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["HOLDS", "HOLDS"], "HOLDS"),
        ([], "INCONCLUSIVE"),
    ],
)
def test_the_worst_verdict_stands_for_all(verdicts: list[Verdict], expected: str) -> None:
    rows = [
        ArtifactVerdict(
            artifact=str(k), verdict=v, advantage_db=0, lower_db=0, upper_db=0, reason=""
        )
        for k, v in enumerate(verdicts)
    ]
    assert worst(rows) == expected
