"""The gates of ``check``: what was measured against the limits that the recipe fixed before."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Literal

from records.parity import (
    ArtifactCheck,
    CheckRecord,
    FloatParity,
    Fusion,
    Gate,
    GateName,
    HostDifference,
    Mode,
    WireEquality,
)
from records.recipe import CheckRecipe

#: Runtimes whose INT8 kernels are XNNPACK's.
XNNPACK: tuple[Literal["executorch", "litert"], ...] = ("executorch", "litert")


def artifact_gates(row: ArtifactCheck, recipe: CheckRecipe, bits: int = 8) -> Iterator[Gate]:
    """Yield the gates of one INT8 artifact in one mode; none for a row that is not gated.

    Args:
        row: what was measured.
        recipe: the limits.
        bits: of the boundary. Below 8 one LSB is coarse, and at 1 bit nothing can differ by more:
            there ONNX must also be identical in a share of values, `identical_share_floor`.
    """
    if not row.gated or row.lsb is None:
        return
    if row.runtime == "lite":
        yield _at_most("lite_max_lsb", row, recipe.lite_max_lsb, row.lsb.max_lsb)
    elif row.runtime in XNNPACK:
        values = sum(row.lsb.histogram[:3])
        share = values / row.lsb.values
        yield _at_least("share_within_2_lsb", row, recipe.share_within_2_lsb, share)
        if bits < 8:
            floor = identical_share_floor(recipe.share_within_2_lsb, bits)
            yield _at_least("onnx_share_identical", row, floor, row.lsb.share_identical)
    else:
        measured = row.lsb.share_within_1_lsb
        yield _at_least("onnx_share_within_1_lsb", row, recipe.onnx_share_within_1_lsb, measured)
        if bits < 8:
            floor = identical_share_floor(recipe.onnx_share_within_1_lsb, bits)
            yield _at_least("onnx_share_identical", row, floor, row.lsb.share_identical)
    if row.accuracy.agreement is not None:
        yield _at_least("top1_agreement", row, recipe.top1_agreement, row.accuracy.agreement)
    if row.accuracy.drop_points is not None:
        drop = row.accuracy.drop_points.estimate
        yield _at_most("accuracy_drop_points", row, recipe.accuracy_drop_points, drop)


def identical_share_floor(share_within_1_lsb: float, bits: int) -> float:
    """Return the share of a boundary's values that must be identical at fewer than 8 bits.

    The 8-bit tensor before the boundary may differ by one of its own steps, of which a step of the
    boundary holds 2^(8 − bits). Where values lie evenly over it, a difference of one moves at most
    2^bits / 256 of them to the next step; so many more than at 8 bits may differ.

    Args:
        share_within_1_lsb: the recipe's share at 8 bits.
        bits: of the boundary, 1 to 7.
    """
    return max(share_within_1_lsb - (1 << bits) / 256, 0.0)


def wire_gates(rows: Iterable[WireEquality], gated: set[tuple[str, Mode]]) -> Iterator[Gate]:
    """Yield a gate for each wire artifact: no value may differ from the float boundary's.

    Args:
        rows: what was measured.
        gated: (artifact, mode) pairs that gates apply to.
    """
    for row in rows:
        if (row.wire, row.mode) in gated:
            yield _gate("wire_equals_float", row.wire, row.mode, "at most", 0, row.differing)


def target_gates(
    rows: Iterable[ArtifactCheck],
    host: Iterable[HostDifference],
    same_bits: Container[str],
    recipe: CheckRecipe,
) -> Iterator[Gate]:
    """Yield the gates that only a target has, beside those of its artifacts.

    An artifact whose kernels are integer arithmetic alone must give the host's bits. LiteRT's must
    keep ONNX Runtime's limit of 1 LSB as well as its own of 2.

    Args:
        rows: what was measured on the target.
        host: the same artifacts on the target against the host.
        same_bits: names of those that must be the same there and here.
        recipe: the limit of 1 LSB.
    """
    for pair in host:
        if pair.artifact in same_bits:
            measured = pair.from_host.max_lsb
            name: GateName = "target_max_lsb_from_host"
            yield _gate(name, pair.artifact, pair.mode, "at most", 0, measured)
    for row in rows:
        if row.gated and row.lsb is not None and row.runtime == "litert":
            limit, share = recipe.onnx_share_within_1_lsb, row.lsb.share_within_1_lsb
            yield _at_least("target_share_within_1_lsb", row, limit, share)


def fp32_gates(rows: Iterable[FloatParity], recipe: CheckRecipe) -> Iterator[Gate]:
    """Yield a gate for each pair of FP32 edges: they must compute the same network.

    Args:
        rows: what was measured.
        recipe: the limit in dB.
    """
    for row in rows:
        limit, measured = recipe.fp32_parity_sqnr_db, row.parity_sqnr_db
        yield Gate(
            name="fp32_parity_sqnr_db",
            artifact=row.artifact,
            mode=row.mode,
            bound="at least",
            limit=limit,
            measured=measured,
            passed=measured is None or measured >= limit,
        )


def fusion_gates(rows: Iterable[Fusion], mode: Mode) -> Iterator[Gate]:
    """Yield a gate for each QDQ ONNX artifact: every convolution must become a QLinearConv.

    Args:
        rows: what became of the convolutions.
        mode: the mode whose optimized graph was looked at.
    """
    for row in rows:
        yield _gate(
            "convolutions_fused", row.artifact, mode, "at least", row.convolutions, row.fused
        )


def failed(gates: Iterable[Gate]) -> tuple[Gate, ...]:
    """Return the gates that were not met."""
    return tuple(gate for gate in gates if not gate.passed)


def failure_sentence(record: CheckRecord) -> str:
    """Return one sentence that names every failed gate of a check."""
    parts = [
        f"{gate.artifact} ({gate.mode}) {gate.name} is {gate.measured}, must be {gate.bound} "
        f"{gate.limit:g}"
        for gate in failed(record.gates)
    ]
    return f"{len(parts)} of {len(record.gates)} gates failed: " + "; ".join(parts)


def _at_most(name: GateName, row: ArtifactCheck, limit: float, measured: float) -> Gate:
    return _gate(name, row.artifact, row.mode, "at most", limit, measured)


def _at_least(name: GateName, row: ArtifactCheck, limit: float, measured: float) -> Gate:
    return _gate(name, row.artifact, row.mode, "at least", limit, measured)


def _gate(
    name: GateName,
    artifact: str,
    mode: Mode,
    bound: Literal["at most", "at least"],
    limit: float,
    measured: float,
) -> Gate:
    return Gate(
        name=name,
        artifact=artifact,
        mode=mode,
        bound=bound,
        limit=float(limit),
        measured=float(measured),
        passed=measured <= limit if bound == "at most" else measured >= limit,
    )
