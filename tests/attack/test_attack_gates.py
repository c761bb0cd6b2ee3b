"""Every gate of the controls passes where it should and fails where it must."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from attack.base import Outcome
from attack.controls import References, Scale
from attack.gates import TOLERANCE_DB, control_gates, drift_gates, query_curve
from attack.metrics import Scores
from records.attack import Candidate, Gate, Level
from records.recipe import AttackRecipe

RECIPE = AttackRecipe(levels=("A0", "A1", "A2", "A3"), capacities=("small", "large"))
BASE = np.random.default_rng(0).normal(20.0, 3.0, 60)


def candidate(parameters: int, loss: float) -> Candidate:
    return Candidate(
        start="scratch",
        capacity="small",
        parameters=parameters,
        epochs=1,
        best_epoch=0,
        best_val_loss=loss,
        val_loss=(loss,),
        stopped="max-epochs",
        seconds=0.0,
    )


def outcome(
    level: Level, gain: float, count: int = 60, queries: int | None = None, large: float = 0.009
) -> Outcome:
    db = BASE[:count] + gain
    return Outcome(
        level=level,
        seed=0,
        candidates=(candidate(20, large), candidate(10, 0.01)),
        chosen=0,
        images=np.zeros((count, 1, 1, 3), np.uint8),
        scores=Scores(mse=10 ** (-db / 10), ssim=np.zeros(count)),
        queries=queries,
    )


def results(**changed: Outcome) -> dict[str, tuple[Outcome, ...]]:
    usual = {
        "a0": outcome("A0", -1.0),
        "a1": outcome("A1", 0.0),
        "a2": outcome("A2", 1.0, 16),
        "few": outcome("A3", -2.0, queries=10),
        "more": outcome("A3", -1.0, queries=100),
    }
    return {"fp32": tuple((usual | changed).values())}


def gates(
    found: dict[str, tuple[Outcome, ...]],
    *,
    ceiling: float = 30.0,
    logits: float = -5.0,
    bits16: float = 0.0,
    floor_db: float = 12.0,
    numpy_floor_db: float = 12.0,
) -> dict[str, Gate]:
    floor = Scores(mse=np.full(60, 10 ** (-floor_db / 10)), ssim=np.zeros(60))
    references = References(
        ceiling=outcome("A0", ceiling),
        logits={"fp32": outcome("A0", logits)},
        bits16=outcome("A0", bits16),
        bits32=outcome("A0", 0.0),
    )
    scale = Scale(floor=floor, mean_colour=floor, numpy_floor_db=numpy_floor_db)
    return {g.name: g for g in control_gates(scale, references, found, "fp32", RECIPE)}


ALL = {
    "floor",
    "ceiling",
    "attack_reaches_floor",
    "boundary_leaks_no_less_than_logits",
    "bits16_as_fp32",
    "a1_not_weaker_than_a0",
    "a2_not_weaker_than_a1",
    "more_queries_not_weaker",
    "more_capacity_not_weaker",
}


def test_a_sound_attack_passes_every_gate() -> None:
    made = gates(results())
    assert set(made) == ALL
    assert all(gate.passed for gate in made.values())
    assert made["a2_not_weaker_than_a1"].measured == pytest.approx(1.0)
    assert made["more_queries_not_weaker"].measured == pytest.approx(1.0)
    assert made["more_capacity_not_weaker"].measured == pytest.approx(10 * np.log10(10 / 9))


def failed(made: dict[str, Gate]) -> set[str]:
    return {name for name, gate in made.items() if not gate.passed}


def test_each_fault_fails_its_own_gate_and_no_other() -> None:
    a1 = outcome("A1", -1.2)
    assert failed(gates(results(a2=outcome("A2", -0.2, 16)))) == {"a2_not_weaker_than_a1"}
    assert failed(gates(results(more=outcome("A3", -2.2, queries=100)))) == {
        "more_queries_not_weaker"
    }
    assert failed(gates(results(more=outcome("A3", 0.2, queries=100)))) == {
        "more_queries_not_weaker"
    }
    assert failed(gates(results(a1=a1))) == {"a1_not_weaker_than_a0", "more_queries_not_weaker"}
    assert failed(gates(results(a1=outcome("A1", 0.0, large=0.011)))) == {
        "more_capacity_not_weaker"
    }
    assert failed(gates(results(), ceiling=15.0)) == {"ceiling"}
    assert failed(gates(results(), logits=0.2)) == {"boundary_leaks_no_less_than_logits"}
    assert failed(gates(results(), bits16=0.2)) == {"bits16_as_fp32"}
    assert failed(gates(results(), bits16=-0.2)) == {"bits16_as_fp32"}
    assert failed(gates(results(), numpy_floor_db=12.1)) == {"floor"}
    assert failed(gates(results(), floor_db=30.0, numpy_floor_db=30.0)) == {"attack_reaches_floor"}


def test_within_the_tolerance_nothing_fails() -> None:
    close = 0.9 * TOLERANCE_DB
    made = gates(
        results(a2=outcome("A2", -close, 16), more=outcome("A3", close, queries=100)),
        logits=close,
        bits16=close,
    )
    assert failed(made) == set()


def test_a_control_that_the_recipe_leaves_out_has_no_gate() -> None:
    floor = Scores(mse=np.full(60, 0.06), ssim=np.zeros(60))
    references = References(ceiling=outcome("A0", 30.0), logits={}, bits16=None, bits32=None)
    scale = Scale(floor=floor, mean_colour=floor, numpy_floor_db=12.0)
    recipe = msgspec.structs.replace(RECIPE, levels=("A0",), capacities=("small",))
    found = {"fp32": (outcome("A0", 0.0),)}
    names = {g.name for g in control_gates(scale, references, found, "fp32", recipe)}
    assert names == {"floor", "ceiling", "attack_reaches_floor"}


def test_the_curve_ends_with_a1() -> None:
    curve = query_curve(results()["fp32"])
    assert [queries for queries, _ in curve] == [10, 100, None]
    assert np.diff([db for _, db in curve]) == pytest.approx([1.0, 1.0])


def test_drift_is_judged_at_the_levels_that_attack_everybody() -> None:
    found = {"eager": results()["fp32"], "same": results()["fp32"]}
    found["other"] = results(a1=outcome("A1", 0.3), a2=outcome("A2", 3.0, 16))["fp32"]
    drift = list(drift_gates(found, "eager", ("same", "other"), RECIPE))
    assert {g.name for g in drift} == {"export_drift_A0", "export_drift_A1"}
    assert [(g.name, g.artifact) for g in drift if not g.passed] == [("export_drift_A1", "other")]
