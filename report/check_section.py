"""The check in tables: accuracy, difference in LSB, gates, and the histogram of differences."""

from __future__ import annotations

from collections.abc import Callable

from records.counted import counted
from records.parity import (
    Accuracy,
    ArtifactCheck,
    CheckRecord,
    FloatParity,
    Gate,
    GateName,
    Interval,
    LsbDifference,
    VictimRecord,
    WireEquality,
)
from report.document import (
    Block,
    Cell,
    Gallery,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
    code,
    columns,
    text,
)
from report.load import RunRecords
from report.plots import lsb_histogram
from report.units import (
    NONE,
    all_gates,
    at_least_percent,
    count,
    decibels,
    interval,
    number,
    percent,
    points,
)


def check_section(run: RunRecords) -> Section:
    """Return how far each artifact is from eager INT8, and what that costs, split by split."""
    blocks: list[Block] = []
    for records in run.splits:
        blocks.append(Heading(records.split, code=True))
        if records.check is None:
            blocks.append(Paragraph("Not run: there is no check of this bundle.", "muted"))
        else:
            blocks += _check(records.check)
    if not run.splits:
        blocks.append(Paragraph("Not run.", "muted"))
    return Section("check", "Check: the artifacts in their own runtimes", tuple(blocks))


def _check(record: CheckRecord) -> list[Block]:
    failed = [g for g in record.gates if not g.passed]
    verdict = (
        Paragraph(f"{all_gates(len(record.gates))} passed.", "good")
        if record.passed
        else Paragraph(f"{len(failed)} of {len(record.gates)} gates failed.", "bad")
    )
    blocks: list[Block] = [
        verdict,
        Paragraph(
            f"{_victims(record.victims)}. ONNX Runtime ran in mode {record.ort.mode} "
            f"({record.ort.reason.rstrip('.')})."
        ),
        _accuracy_table(record),
        _lsb_table(record),
    ]
    plots = _histograms(record)
    if plots:
        blocks.append(Gallery(plots))
    if record.fp32_parity or record.wire_equality:
        blocks.append(_agreement_table(record))
    if record.fusion:
        blocks.append(_fusion_table(record))
    blocks.append(_gate_table(record))
    if record.operators:
        blocks.append(_operator_table(record))
    blocks += [Paragraph(f"Not run: {s.artifact}: {s.reason}.", "muted") for s in record.skipped]
    if record.evidence is not None:
        blocks.append(Paragraph(f"Evidence of the failure is kept in {record.evidence.file}."))
    return blocks


def _victims(victims: VictimRecord) -> str:
    if victims.first_of is not None:
        which = f" (the first of {count(victims.first_of)})"
    else:
        which = "" if victims.is_manifest_set else " (not the victim set of the bundle)"
    return f"{counted(victims.count, 'victim image')} of {victims.source}{which}"


def _accuracy_table(record: CheckRecord) -> Table:
    confidence = next(
        (
            a.accuracy.drop_points.confidence
            for a in record.artifacts
            if a.accuracy.drop_points is not None
        ),
        record.recipe.confidence,
    )
    return Table(
        caption="Top-1 accuracy through the FP32 server half",
        columns=columns(
            "Artifact",
            "Runtime and mode",
            ">Top-1",
            ">Drop against FP32",
            f">{percent(confidence, 0)} interval",
            ">Agrees with eager INT8",
        ),
        rows=tuple(
            (*_names(a), *_accuracy_cells(a.accuracy), _agreement(a)) for a in record.artifacts
        ),
        note=(
            "The interval is a paired bootstrap over images; a negative drop is a gain. "
            "Agreement: share of images with the same top-1 class."
        ),
    )


def _accuracy_cells(accuracy: Accuracy) -> tuple[Cell, Cell, Cell]:
    drop = accuracy.drop_points
    return (
        text(percent(accuracy.top1, 2)),
        text(NONE if drop is None else points(drop.estimate)),
        text(NONE if drop is None else _interval(drop)),
    )


def _interval(drop: Interval) -> str:
    return interval(number(drop.low, 2), number(drop.high, 2))


def _agreement(checked: ArtifactCheck) -> Cell:
    return text(at_least_percent(checked.accuracy.agreement, 2))


def _lsb_table(record: CheckRecord) -> Table:
    measured = [(a, a.lsb) for a in record.artifacts if a.lsb is not None and not a.reference]
    return Table(
        caption="Boundary against eager INT8, in LSB (one step of the boundary's scale)",
        columns=columns(
            "Artifact",
            "Runtime and mode",
            ">Max",
            ">Identical",
            ">Within 1 LSB",
            ">parity_sqnr_db",
            ">Values compared",
        ),
        rows=tuple((*_names(a), *_lsb_cells(lsb)) for a, lsb in measured),
        note=(
            "parity_sqnr_db says how well two runtimes agree (high is good); it says nothing about "
            "reconstruction, which is recon_psnr_db."
        ),
    )


def _lsb_cells(lsb: LsbDifference) -> tuple[Cell, ...]:
    return (
        text(f"{lsb.max_lsb} LSB"),
        text(at_least_percent(lsb.share_identical, 3)),
        text(at_least_percent(lsb.share_within_1_lsb, 3)),
        text(_sqnr(lsb.parity_sqnr_db)),
        text(count(lsb.values)),
    )


def _sqnr(value: float | None) -> str:
    return "no difference" if value is None else decibels(value)


def _names(checked: ArtifactCheck) -> tuple[Cell, Cell]:
    return code(checked.artifact), text(f"{checked.runtime}, {checked.mode}")


def _histograms(record: CheckRecord) -> tuple[Picture, ...]:
    """One plot per distinct histogram; a single bar at zero is left to the table."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for checked in record.artifacts:
        if checked.lsb is not None and not checked.reference and checked.lsb.max_lsb > 0:
            name = f"{checked.artifact} ({checked.mode})"
            groups.setdefault(checked.lsb.histogram, []).append(name)
    return tuple(_histogram(histogram, names) for histogram, names in groups.items())


def _histogram(histogram: tuple[int, ...], names: list[str]) -> Picture:
    total = max(sum(histogram), 1)
    shares = [n / total for n in histogram]
    named = ", ".join(names)
    return Picture(
        media="image/svg+xml",
        data=lsb_histogram(range(len(histogram)), shares),
        alt=(
            f"Histogram of the difference from eager INT8 for {named}: "
            f"{at_least_percent(shares[0], 3)} of the boundary values are identical, the largest "
            f"difference is {len(histogram) - 1} LSB."
        ),
        caption=f"Difference from eager INT8, logarithmic scale: {named}.",
    )


def _agreement_table(record: CheckRecord) -> Table:
    return Table(
        caption="Artifacts against each other",
        columns=columns("Artifact", "Against", "Mode", ">Result"),
        rows=(
            *(_float_parity(p) for p in record.fp32_parity),
            *(_wire_equality(w) for w in record.wire_equality),
        ),
    )


def _float_parity(parity: FloatParity) -> tuple[Cell, ...]:
    result = "no difference"
    if parity.parity_sqnr_db is not None:
        result = f"parity_sqnr_db {decibels(parity.parity_sqnr_db)}"
    return code(parity.artifact), code(parity.reference), text(parity.mode), text(result)


def _wire_equality(equality: WireEquality) -> tuple[Cell, ...]:
    result = "equal bit for bit"
    if equality.differing:
        result = f"not equal: {counted(equality.differing, 'value')}"
    return code(equality.wire), code(equality.float_boundary), text(equality.mode), text(result)


def _fusion_table(record: CheckRecord) -> Table:
    return Table(
        caption="Convolutions that ONNX Runtime runs as integers (QLinearConv)",
        columns=columns("Artifact", ">Convolutions", ">Fused", "Left in float"),
        rows=tuple(
            (
                code(f.artifact),
                text(count(f.convolutions)),
                text(count(f.fused)),
                text(", ".join(f.left_in_float) or "none"),
            )
            for f in record.fusion
        ),
    )


def _operator_table(record: CheckRecord) -> Table:
    return Table(
        caption="Operators that a runtime computes otherwise, alone on eager INT8's own inputs",
        columns=columns("Runtime", "Operator", "Node", ">Values that differ", ">Max LSB"),
        rows=tuple(
            (
                text(one.runtime),
                code(one.operator),
                code(one.node),
                text(percent(one.differing / one.values, 3)),
                text(count(one.max_lsb)),
            )
            for one in record.operators
        ),
    )


def _gate_table(record: CheckRecord) -> Table:
    return Table(
        caption="Gates, with the tolerances of the recipe",
        columns=columns("Gate", "Artifact", "Mode", ">Measured", ">Limit", "Result"),
        rows=tuple(_gate(g) for g in record.gates),
    )


def _gate(gate: Gate) -> tuple[Cell, ...]:
    measured = "no difference" if gate.measured is None else _gate_number(gate, gate.measured)
    return (
        code(gate.name),
        code(gate.artifact),
        text(gate.mode),
        text(measured),
        text(f"{gate.bound} {_gate_number(gate, gate.limit)}"),
        text("passed", "good") if gate.passed else text("failed", "bad"),
    )


def _gate_number(gate: Gate, value: float) -> str:
    """Return a measured value or limit in the unit of its gate."""
    writers: dict[GateName, Callable[[float], str]] = {
        "lite_max_lsb": lambda v: number(v, 0, "LSB"),
        "target_max_lsb_from_host": lambda v: number(v, 0, "LSB"),
        "wire_equals_float": lambda v: number(v, 0, "values"),
        "convolutions_fused": lambda v: number(v, 0),
        "accuracy_drop_points": points,
        "fp32_parity_sqnr_db": decibels,
    }
    return writers[gate.name](value) if gate.name in writers else at_least_percent(value, 2)
