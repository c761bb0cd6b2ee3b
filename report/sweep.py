"""A sweep as a document: verdicts, Pareto table and plots, every group, hashes; from its JSON."""

from __future__ import annotations

from records.sweep import (
    Candidate,
    CellFile,
    Group,
    GroupArtifact,
    GroupLevel,
    PointLatency,
    Range,
    Sweep,
)
from report import plots
from report.document import (
    Block,
    Cell,
    Code,
    Document,
    Gallery,
    Paragraph,
    Picture,
    Section,
    SplitVerdicts,
    Table,
    VerdictLine,
    code,
    columns,
    text,
)
from report.recipe_text import recipe_toml
from report.units import (
    NONE,
    bit_width,
    count,
    decibels,
    interval,
    milliseconds,
    number,
    percent,
    points,
    short_hash,
    size,
    small,
    times,
)
from report.wording import TONES


def sweep_document(sweep: Sweep) -> Document:
    """Return the whole page of a sweep as plain data."""
    return Document(
        title=sweep.grid.name,
        lede=_lede(sweep),
        facts=_facts(sweep),
        verdicts=tuple(_verdicts(sweep, split) for split in sweep.grid.splits),
        sections=(
            Section("pareto", "What is traded for what", _pareto(sweep)),
            Section("groups", "Every attacker on every point", _groups(sweep)),
            Section("latency", "Latency", _latency(sweep)),
            Section("gates", "Controls", _gates(sweep)),
            Section("provenance", "Provenance", _provenance(sweep)),
        ),
    )


def _lede(sweep: Sweep) -> str:
    verdicts = [g.verdict for g in sweep.groups]
    tally = ", ".join(
        f"{verdicts.count(word)} {word}"
        for word in ("DENIED", "INCONCLUSIVE", "HOLDS")
        if word in verdicts
    )
    front = sum(c.pareto for c in sweep.candidates)
    taking_part = sum(not c.reference for c in sweep.candidates)
    return (
        f"Where does sending fewer bits hide the input image, and what does it cost? Of "
        f"{count(len(verdicts))} combinations of split, bit width and attacker: {tally}. "
        f"{count(front)} of {count(taking_part)} exports are on the Pareto front."
    )


def _facts(sweep: Sweep) -> tuple[tuple[str, str], ...]:
    grid, model = sweep.grid, sweep.grid.base.model
    return (
        ("Splits", ", ".join(grid.splits)),
        ("Boundary bits", ", ".join(str(b) for b in grid.boundary_bits)),
        ("Attackers", ", ".join(dict.fromkeys(g.attacker for g in sweep.groups))),
        ("Cells", count(sum(len(g.cells) for g in sweep.groups))),
        ("Network", f"{model.name} at {model.image_size} × {model.image_size}"),
        ("Images", f"{sweep.data.source}, {len(sweep.data.classes)} classes"),
        ("Attacker images", count(sweep.data.attacker.count)),
        ("Victims", count(sweep.data.victim.count)),
        ("Top-1 in FP32", percent(sweep.whole_network_top1, 2)),
    )


def _verdicts(sweep: Sweep, split: str) -> SplitVerdicts:
    groups = [g for g in sweep.groups if g.split == split]
    notes = dict.fromkeys(
        f"{bit_width(g.boundary_bits)}, {g.attacker}: {g.note}"
        for g in groups
        if g.note is not None
    )
    return SplitVerdicts(
        split=split,
        boundary=f"floor {decibels(groups[0].floor_db)}",
        lines=tuple(_line(sweep, g) for g in groups),
        notes=tuple(notes),
    )


def _line(sweep: Sweep, group: Group) -> VerdictLine:
    """Return a group's verdict with the artifact that it stands on: the one that hides least."""
    margin = decibels(sweep.grid.base.attack.margin_db)
    judged = [a for a in group.artifacts if a.advantage_db is not None]
    worst = min(judged, key=lambda a: a.advantage_db or 0.0)
    reason = (
        f"{worst.name} leaks {decibels(worst.advantage_db)} less than FP32 "
        f"{interval(decibels(worst.lower_db), decibels(worst.upper_db))}; the margin is {margin}."
    )
    if group.verdict == "HOLDS":
        share = percent(max(level.reidentified.mean for level in worst.levels), 1)
        reason += f" That is less, not nothing: {share} of the reconstructions are recognised."
    if not group.gates_passed:
        reason = (
            f"Gates failed: {', '.join(sorted({g.name for g in group.failed_gates}))}. {reason}"
        )
    return VerdictLine(
        artifacts=(bit_width(group.boundary_bits), group.attacker),
        word=group.verdict,
        tone=TONES[group.verdict],
        sentence=reason,
        figures=_figures(worst, group),
    )


def _figures(artifact: GroupArtifact, group: Group) -> str:
    seeds = ", ".join(str(s) for s in group.seeds)
    return (
        f"recon_psnr_db: {_levels(artifact)}; attacker seed{'s' if len(group.seeds) > 1 else ''} "
        f"{seeds}"
    )


def _levels(artifact: GroupArtifact) -> str:
    return ", ".join(f"{_attacker(one)} {_range(one.recon_psnr_db)}" for one in artifact.levels)


def _attacker(one: GroupLevel) -> str:
    return one.level if one.queries is None else f"{one.level} ({count(one.queries)} queries)"


def _range(figures: Range) -> str:
    mean = decibels(figures.mean)
    if figures.low == figures.high:
        return mean
    return f"{mean} {interval(decibels(figures.low), decibels(figures.high))}"


def _pareto(sweep: Sweep) -> tuple[Block, ...]:
    return (
        Paragraph(
            "Four costs, all to be low: top-1 lost, what the worst attacker rebuilds over the "
            "mean image, bytes sent per image, bytes of the file. A row is on the front when no "
            "other row is at least as good in all four and better in one."
        ),
        Gallery(trade_off_pictures(sweep)),
        Table(
            caption="What each point really sends, worst attacker",
            columns=columns(
                "Split",
                "Bits",
                "Artifact",
                ">Top-1 lost",
                ">Leak",
                "Worst attacker",
                ">Sent",
                ">File",
                ">Weights",
                ">p50, ONNX",
                "Verdict",
                "Front",
            ),
            rows=tuple(_candidate(c, sweep) for c in sweep.candidates),
            note=(
                f"Leak: recon_psnr_db over the floor, mean over victims and seeds. Sent: values "
                f"packed at so many bits; a stored image has {size(sweep.image_bytes)}. FP32 is "
                "listed for comparison and takes no part in the front."
            ),
        ),
    )


def _candidate(one: Candidate, sweep: Sweep) -> tuple[Cell, ...]:
    verdict = text("baseline") if one.verdict is None else text(one.verdict, TONES[one.verdict])
    return (
        code(one.split),
        text("FP32" if one.boundary_bits is None else str(one.boundary_bits)),
        code(one.artifact),
        text(_drop(one)),
        text(decibels(one.leak_db)),
        text(one.leak_by),
        text(size(one.wire_bytes)),
        text(size(one.file_bytes)),
        text(size(one.weight_bytes)),
        text(_p50(one, sweep)),
        verdict,
        text("front", "good") if one.pareto else text(NONE),
    )


def _drop(one: Candidate) -> str:
    if one.drop_points is None:
        return NONE
    drop, low, high = one.drop_points
    return f"{points(drop)} {interval(number(low, 2), number(high, 2))}"


def _p50(one: Candidate, sweep: Sweep) -> str:
    """Return the median latency of the point's ONNX edge; the sweep measures no other runtime."""
    for row in sweep.timing.latency:
        if row.split == one.split and one.boundary_bits in (None, row.boundary_bits):
            measured = row.fp32_p50_ms if one.reference else row.int8_p50_ms
            return milliseconds(measured) if row.valid else "INVALID"
    return NONE


def trade_off_pictures(sweep: Sweep) -> tuple[Picture, ...]:
    """Return leak against accuracy and against bytes, one artifact of every split, as SVG."""
    drawn_artifact = _drawn(sweep)
    drawn = {
        split: [
            c
            for c in sweep.candidates
            if c.split == split and not c.reference and c.artifact == drawn_artifact
        ]
        for split in sweep.grid.splits
    }
    with_drop = {s: [c for c in rows if c.drop_points is not None] for s, rows in drawn.items()}
    return (
        _plot(
            [_trade(s, rows, [_lost(c) for c in rows]) for s, rows in with_drop.items()],
            "top-1 lost (percentage points)",
            "top-1 lost against FP32",
            drawn_artifact,
            log_x=False,
        ),
        _plot(
            [_trade(s, rows, [float(c.wire_bytes) for c in rows]) for s, rows in drawn.items()],
            "sent per image (bytes, log scale)",
            "bytes sent per image",
            drawn_artifact,
            log_x=True,
        ),
    )


def _lost(one: Candidate) -> float:
    return float("nan") if one.drop_points is None else one.drop_points[0]


def _trade(split: str, rows: list[Candidate], x: list[float]) -> plots.Trade:
    return plots.Trade(
        label=split,
        x=x,
        y=[c.leak_db for c in rows],
        names=[str(c.boundary_bits) for c in rows],
        front=[c.pareto for c in rows],
    )


def _drawn(sweep: Sweep) -> str:
    """Return the artifact that is drawn: ONNX where it was attacked, else the last one."""
    names = [c.artifact for c in sweep.candidates if not c.reference]
    return next((name for name in names if name.endswith("_onnx")), names[-1])


def _plot(lines: list[plots.Trade], axis: str, what: str, artifact: str, *, log_x: bool) -> Picture:
    said = "; ".join(
        f"{one.label}: "
        + ", ".join(
            f"{name} bits {x:g} and {y:.2f} dB"
            for name, x, y in zip(one.names, one.x, one.y, strict=True)
        )
        for one in lines
    )
    return Picture(
        media="image/svg+xml",
        data=plots.trade_off(lines, axis, log_x=log_x),
        alt=f"Leak over the floor against {what}. {said}.",
        caption=(
            f"Leak against {what}, {artifact}, one line a split, points labelled by bits. "
            "Filled: on the Pareto front."
        ),
    )


def _groups(sweep: Sweep) -> tuple[Block, ...]:
    rows = [_group_row(g, a) for g in sweep.groups for a in g.artifacts]
    confidence = percent(sweep.grid.base.attack.confidence, 0)
    return (
        Table(
            caption="Each artifact's outputs under each attacker",
            columns=columns(
                "Split",
                "Bits",
                "Attacker",
                "Artifact",
                ">recon_psnr_db by level",
                ">Leak",
                ">Re-identified",
                ">Label recovered",
                ">Advantage over FP32",
                f">Bounds, one-sided {confidence}",
                "Verdict",
                ">Seeds",
            ),
            rows=tuple(rows),
            note=(
                "Mean over victims and seeds, smallest and largest seed in brackets. With several "
                "seeds the bounds are of the paired bootstrap over victims and seeds. The shares "
                "re-identified and of labels recovered are of the level with the highest "
                "recon_psnr_db."
            ),
        ),
    )


def _group_row(group: Group, artifact: GroupArtifact) -> tuple[Cell, ...]:
    verdict = artifact.verdict
    strongest = max(artifact.levels, key=lambda one: one.recon_psnr_db.mean)
    bounds = interval(decibels(artifact.lower_db), decibels(artifact.upper_db))
    return (
        code(group.split),
        text(str(group.boundary_bits)),
        text(group.attacker),
        code(artifact.name),
        text(_levels(artifact)),
        text(_range(artifact.leak_db)),
        text(percent(strongest.reidentified.mean)),
        text(percent(strongest.label_top1.mean)),
        text(decibels(artifact.advantage_db)),
        text(NONE if artifact.lower_db is None else bounds),
        text("baseline") if verdict is None else text(verdict, TONES[verdict]),
        text(count(len(group.seeds))),
    )


def _latency(sweep: Sweep) -> tuple[Block, ...]:
    rows = sweep.timing.latency
    if not rows:
        return (Paragraph("Not measured: the grid does not ask for latency.", "muted"),)
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    return (
        Table(
            caption=f"ONNX edge, one thread, one image, on {rows[0].machine}",
            columns=columns(
                "Split", "Bits", ">FP32 p50", ">INT8 p50", ">Speed-up", "Verdict", "Run"
            ),
            rows=tuple(_latency_row(row) for row in rows),
            note=" ".join(f"{note[:1].upper()}{note[1:]}." for note in notes),
        ),
    )


def _latency_row(row: PointLatency) -> tuple[Cell, ...]:
    ratio = NONE
    if row.ratio is not None:
        ratio = f"{times(row.ratio)} {interval(times(row.low), times(row.high))}"
    return (
        code(row.split),
        text(str(row.boundary_bits)),
        text(milliseconds(row.fp32_p50_ms)),
        text(milliseconds(row.int8_p50_ms)),
        text(ratio),
        text(row.verdict or NONE),
        text("valid", "good") if row.valid else text("INVALID", "bad"),
    )


def _gates(sweep: Sweep) -> tuple[Block, ...]:
    failed = [(group, gate) for group in sweep.groups for gate in group.failed_gates]
    if not failed:
        return (
            Paragraph(
                "Every control, export-drift and parity gate passed in every cell. Lost accuracy "
                "is an axis of the table above, not a gate.",
                "good",
            ),
        )
    return (
        Table(
            caption="Gates that failed",
            columns=columns("Split", "Bits", "Attacker", "Gate", "Artifact", ">Measured", ">Limit"),
            rows=tuple(
                (
                    code(group.split),
                    text(str(group.boundary_bits)),
                    text(group.attacker),
                    text(f"{gate.stage}: {gate.name}", "bad"),
                    text(NONE) if gate.artifact is None else code(gate.artifact),
                    text(NONE if gate.measured is None else small(gate.measured, 3)),
                    text(small(gate.limit, 3)),
                )
                for group, gate in failed
            ),
        ),
    )


def _provenance(sweep: Sweep) -> tuple[Block, ...]:
    versions = ", ".join(f"{name} {v}" for name, v in sorted(sweep.versions.items()))
    files: list[CellFile] = []
    for group in sweep.groups:
        files += group.cells if group.joint is None else (*group.cells, group.joint)
    return (
        Paragraph(f"Checkpoint {sweep.checkpoint_sha256}; grid {sweep.grid_sha256}."),
        Paragraph(f"Versions: {versions}."),
        Code(recipe_toml(sweep.grid.base), "toml"),
        Table(
            caption="Cells",
            columns=columns("Record", "SHA-256"),
            rows=tuple((code(f.file), code(short_hash(f.sha256))) for f in files),
        ),
    )
