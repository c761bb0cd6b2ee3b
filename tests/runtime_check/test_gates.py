"""Each gate just at its limit and just beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from records.parity import (
    Accuracy,
    ArtifactCheck,
    FloatParity,
    Fusion,
    Gate,
    HostDifference,
    Interval,
    LsbDifference,
    Mode,
    RuntimeName,
    WireEquality,
)
from records.recipe import CheckRecipe
from runtime_check.gates import (
    artifact_gates,
    failed,
    fp32_gates,
    fusion_gates,
    identical_share_floor,
    target_gates,
    wire_gates,
)

RECIPE = CheckRecipe()


@dataclass(frozen=True)
class Measured:
    max_lsb: int = 0
    within: float = 1.0
    agreement: float = 1.0
    drop: float = 0.0
    identical: float = 0.0
    beyond_two: int = 0


def row(
    measured: Measured,
    runtime: RuntimeName,
    mode: Mode = "default",
    *,
    gated: bool = True,
) -> ArtifactCheck:
    lsb = LsbDifference(
        values=100,
        max_lsb=measured.max_lsb,
        histogram=(100 - measured.beyond_two, 0, 0, measured.beyond_two),
        share_identical=measured.identical,
        share_within_1_lsb=measured.within,
        parity_sqnr_db=40.0,
        off_grid=0,
        worst=(),
    )
    drop = Interval(estimate=measured.drop, low=-99.0, high=99.0, confidence=0.95)
    return ArtifactCheck(
        artifact="edge",
        runtime=runtime,
        mode=mode,
        precision="int8",
        boundary="float",
        reference=False,
        gated=gated,
        accuracy=Accuracy(top1=0.5, agreement=measured.agreement, disagreeing=(), drop_points=drop),
        lsb=lsb,
    )


def failures(gates: object) -> list[str]:
    return [gate.name for gate in failed(gates)]  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["lite", "ort", "ort-mobile", "executorch", "litert"])
def test_at_the_limits_everything_passes(runtime: RuntimeName) -> None:
    at_limit = Measured(
        max_lsb=RECIPE.lite_max_lsb,
        within=RECIPE.onnx_share_within_1_lsb,
        agreement=RECIPE.top1_agreement,
        drop=RECIPE.accuracy_drop_points,
    )
    gates = tuple(artifact_gates(row(at_limit, runtime), RECIPE))
    assert len(gates) == 3
    assert failures(gates) == []


@pytest.mark.parametrize(
    ("runtime", "measured", "name"),
    [
        ("lite", Measured(max_lsb=1), "lite_max_lsb"),
        ("ort", Measured(within=0.9899), "onnx_share_within_1_lsb"),
        ("ort", Measured(agreement=0.9799), "top1_agreement"),
        ("lite", Measured(drop=3.01), "accuracy_drop_points"),
        ("ort-mobile", Measured(within=0.9899), "onnx_share_within_1_lsb"),
        ("executorch", Measured(beyond_two=1), "share_within_2_lsb"),
        ("litert", Measured(beyond_two=1), "share_within_2_lsb"),
    ],
)
def test_beyond_one_limit_that_gate_alone_fails(
    runtime: RuntimeName, measured: Measured, name: str
) -> None:
    gates = tuple(artifact_gates(row(measured, runtime), RECIPE))
    assert failures(gates) == [name]


def test_a_row_for_comparison_has_no_gate() -> None:
    bad = Measured(max_lsb=99, within=0.0, agreement=0.0, drop=99.0)
    assert tuple(artifact_gates(row(bad, "ort", "precise", gated=False), RECIPE)) == ()


def wire(differing: int, mode: Mode = "default") -> WireEquality:
    first = 0 if differing else None
    return WireEquality(
        wire="w", float_boundary="f", mode=mode, differing=differing, first_image=first
    )


def test_one_differing_wire_value_fails_where_gates_apply() -> None:
    gated: set[tuple[str, Mode]] = {("w", "default")}
    assert failures(wire_gates([wire(0)], gated)) == []
    assert failures(wire_gates([wire(1)], gated)) == ["wire_equals_float"]
    assert tuple(wire_gates([wire(1, "precise")], gated)) == ()


def test_one_convolution_left_in_float_fails() -> None:
    def fusion(fused: int) -> Fusion:
        return Fusion(artifact="edge", convolutions=5, fused=fused, left_in_float=())

    assert failures(fusion_gates([fusion(5)], "default")) == []
    assert failures(fusion_gates([fusion(4)], "default")) == ["convolutions_fused"]


def from_host(max_lsb: int) -> HostDifference:
    lsb = row(Measured(max_lsb=max_lsb), "executorch").lsb
    assert lsb is not None
    return HostDifference(
        artifact="edge", mode="xnnpack", host_mode="xnnpack", from_host=lsb, host_from_eager=lsb
    )


def test_integer_kernels_give_the_hosts_bits_on_a_target() -> None:
    assert failures(target_gates([], [from_host(0)], {"edge"}, RECIPE)) == []
    gates = target_gates([], [from_host(1)], {"edge"}, RECIPE)
    assert failures(gates) == ["target_max_lsb_from_host"]
    assert tuple(target_gates([], [from_host(1)], {"other"}, RECIPE)) == ()


@pytest.mark.parametrize(("within", "name"), [(0.99, []), (0.9899, ["target_share_within_1_lsb"])])
def test_litert_keeps_one_lsb_too_on_a_target(within: float, name: list[str]) -> None:
    rows = [row(Measured(within=within), "litert"), row(Measured(within=within), "executorch")]
    gates = tuple(target_gates(rows, [], (), RECIPE))
    assert len(gates) == 1
    assert failures(gates) == name


def test_fp32_edges_must_agree() -> None:
    def parity(decibels: float | None) -> list[Gate]:
        pair = FloatParity(
            artifact="a", reference="b", mode="qnnpack", parity_sqnr_db=decibels, max_abs=0.0
        )
        return list(fp32_gates([pair], RECIPE))

    limit = RECIPE.fp32_parity_sqnr_db
    assert failures(parity(None)) == failures(parity(limit)) == []
    assert failures(parity(limit - 0.1)) == ["fp32_parity_sqnr_db"]


@pytest.mark.parametrize(
    ("bits", "floor"), [(1, 0.99 - 2 / 256), (2, 0.99 - 4 / 256), (4, 0.9275), (6, 0.74)]
)
def test_below_8_bits_onnx_must_be_identical_in_a_share_of_values(bits: int, floor: float) -> None:
    assert identical_share_floor(0.99, bits) == pytest.approx(floor)
    for identical, expected in ((floor + 1e-6, []), (floor - 1e-6, ["onnx_share_identical"])):
        measured = row(Measured(max_lsb=1, identical=identical), "ort")
        assert failures(artifact_gates(measured, RECIPE, bits)) == expected


def test_at_8_bits_and_in_lite_files_nothing_is_added() -> None:
    for runtime, bits in (("ort", 8), ("lite", 1)):
        names = [g.name for g in artifact_gates(row(Measured(), runtime), RECIPE, bits)]  # type: ignore[arg-type]
        assert "onnx_share_identical" not in names
