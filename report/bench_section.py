"""The bench in tables and plots: sizes, wire bytes, latency with its validity, speed-ups."""

from __future__ import annotations

from records.bench import (
    BenchRecord,
    CompressedSize,
    Criterion,
    Latency,
    MeasuredRun,
    SpeedUp,
    Startup,
    WireSize,
)
from records.counted import counted
from report import plots
from report.document import (
    Block,
    Cell,
    Gallery,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
    Tone,
    code,
    columns,
    text,
)
from report.load import RunRecords
from report.units import (
    NONE,
    as_sentence,
    bit_width,
    count,
    interval,
    milliseconds,
    number,
    percent,
    shape,
    size,
    times,
)

_SPEED_TONES: dict[str, Tone] = {
    "faster": "good",
    "slower": "bad",
    "no speed-up shown": "warn",
    "not given": "muted",
}


def bench_section(run: RunRecords) -> Section:
    """Return sizes and latencies, split by split, each figure with whether it may be believed."""
    blocks: list[Block] = []
    for records in run.splits:
        blocks.append(Heading(records.split, code=True))
        if records.bench is None:
            blocks.append(Paragraph("Not run: nothing was measured on this machine.", "muted"))
        else:
            blocks += _bench(records.bench)
    if not run.splits:
        blocks.append(Paragraph("Not run.", "muted"))
    return Section("bench", "Size and latency", tuple(blocks))


def invalid_threads(record: BenchRecord) -> frozenset[int]:
    """Return the thread counts whose interleaved run was INVALID."""
    return frozenset(r.threads for r in record.runs if not r.timing.valid)


def _bench(record: BenchRecord) -> list[Block]:
    invalid = invalid_threads(record)
    blocks: list[Block] = [validity(record), *(Paragraph(as_sentence(n)) for n in record.notes)]
    if record.machine.emulated is not None:
        blocks.append(
            Paragraph(
                f"Measured under {record.machine.emulated}: these times are no device's times.",
                "bad",
            )
        )
    blocks += [Gallery(_plots(record, invalid)), _size_table(record), _ratio_table(record)]
    blocks.append(_wire_table(record.wire))
    if record.latency:
        blocks += [latency_table(record, invalid), speedup_table(record)]
    blocks.append(_startup_table(record))
    if record.runs:
        blocks.append(criteria_table(record))
    if record.skipped:
        blocks.append(_skipped_table(record))
    return blocks


def validity(record: BenchRecord) -> Paragraph:
    """Return whether the latencies may be believed."""
    if not record.runs:
        return Paragraph("No latency was measured.", "warn")
    bad = [r for r in record.runs if not r.timing.valid]
    if not bad:
        return Paragraph("Every interleaved run met the conditions of a sound measurement.", "good")
    threads = ", ".join(counted(r.threads, "thread") for r in bad)
    return Paragraph(
        f"INVALID with {threads}: the machine was not quiet enough, so these latencies "
        "are shown but no speed-up is concluded from them.",
        "bad",
    )


def _plots(record: BenchRecord, invalid: frozenset[int]) -> tuple[Picture, ...]:
    threads = list(dict.fromkeys(x.threads for x in record.latency))
    return (_size_plot(record), *(_latency_plot(record, n, n in invalid) for n in threads))


def _size_plot(record: BenchRecord) -> Picture:
    rows = [s for s in record.sizes if s.role == "edge"]
    svg = plots.size_bars(
        [
            plots.FileSize(s.artifact, s.file_bytes, s.weight_bytes, s.precision == "int8")
            for s in rows
        ]
    )
    listed = "; ".join(
        f"{s.artifact} {size(s.file_bytes)}, of which weights {size(s.weight_bytes)}" for s in rows
    )
    return Picture(
        "image/svg+xml",
        svg,
        alt=f"File sizes of the edge artifacts: {listed}.",
        caption=f"File size of each edge artifact of {record.split}, weights dark.",
    )


def _latency_plot(record: BenchRecord, threads: int, invalid: bool) -> Picture:
    rows = [x for x in record.latency if x.threads == threads]
    svg = plots.latency_percentiles(
        [
            plots.Latency(
                x.artifact,
                x.timing.p50_ms,
                x.timing.p90_ms,
                x.timing.p99_ms,
                x.precision == "int8",
                not invalid,
            )
            for x in rows
        ]
    )
    mark = " INVALID run." if invalid else ""
    listed = "; ".join(f"{x.artifact} p50 {milliseconds(x.timing.p50_ms)}" for x in rows)
    noun = "thread" if threads == 1 else "threads"
    return Picture(
        "image/svg+xml",
        svg,
        alt=f"Latency with {threads} {noun}: {listed}.{mark}",
        caption=f"Latency of {record.split} with {threads} {noun}.{mark}",
    )


def _size_table(record: BenchRecord) -> Table:
    return Table(
        caption="Bytes of each artifact",
        columns=columns("Artifact", "Role", "Precision", ">Weights", ">File"),
        rows=tuple(
            (
                code(s.artifact),
                text(s.role),
                text(s.precision),
                text(size(s.weight_bytes)),
                text(size(s.file_bytes)),
            )
            for s in record.sizes
        ),
        note="1 kB = 1000 bytes.",
    )


def _ratio_table(record: BenchRecord) -> Table:
    return Table(
        caption="FP32 bytes / INT8 bytes (more than 1 is smaller)",
        columns=columns("INT8", "FP32", ">Weights", ">File"),
        rows=tuple(
            (code(r.int8), code(r.fp32), text(times(r.weight_ratio)), text(times(r.file_ratio)))
            for r in record.size_ratios
        ),
    )


def _wire_table(wire: WireSize) -> Table:
    rows = [
        (text("stored image, H·W·3 uint8"), text(size(wire.image_bytes)), text("")),
        (text(f"boundary in FP32, {shape(wire.shape)}"), text(size(wire.float_bytes)), text("")),
        (text(f"boundary in uint8, {shape(wire.shape)}"), text(size(wire.raw_bytes)), text("")),
    ]
    compressed_name = "boundary in uint8, compressed"
    if wire.bits < 8:
        packed = f"boundary packed, {bit_width(wire.bits)} a value"
        rows.append((text(packed), text(size(wire.packed_bytes)), text("")))
        compressed_name = f"{packed}, compressed"
    if wire.compressed is not None:
        rows.append(_compressed(compressed_name, wire.compressed))
    if wire.image_compressed is not None:
        rows.append(_compressed("image, compressed", wire.image_compressed))
    note = "" if wire.artifact is None else f"Compressed: real outputs of {wire.artifact}."
    return Table(
        caption="Bytes per image on the wire",
        columns=columns("What is sent", ">Bytes", "Spread over images"),
        rows=tuple(rows),
        note=wire.not_measured or note,
    )


def _compressed(name: str, compressed: CompressedSize) -> tuple[Cell, Cell, Cell]:
    spread = (
        f"{compressed.method}, {counted(compressed.images, 'image')}; p5 {size(compressed.p5)}, "
        f"p50 {size(compressed.p50)}, p95 {size(compressed.p95)}"
    )
    return text(name), text(size(round(compressed.mean))), text(spread)


def latency_table(record: BenchRecord, invalid: frozenset[int]) -> Table:
    """Return percentiles of every artifact and thread count; those of ``invalid`` are marked."""
    return Table(
        caption=f"Latency of one run, batch {record.recipe.batch_size}",
        columns=columns(
            "Artifact", ">Threads", ">p50", ">p90", ">p95", ">p99", ">Min", ">Runs", "Valid"
        ),
        rows=tuple(_latency(x, x.threads in invalid) for x in record.latency),
        note="Nearest-rank percentiles; FP32 and INT8 were interleaved in one run.",
    )


def _latency(latency: Latency, invalid: bool) -> tuple[Cell, ...]:
    timing = latency.timing
    figures = (timing.p50_ms, timing.p90_ms, timing.p95_ms, timing.p99_ms, timing.min_ms)
    return (
        code(latency.artifact),
        text(str(latency.threads)),
        *(text(milliseconds(f), "muted" if invalid else "") for f in figures),
        text(count(timing.samples)),
        text("INVALID", "bad") if invalid else text("yes"),
    )


def speedup_table(record: BenchRecord) -> Table:
    """Return INT8 against FP32 with intervals and verdicts."""
    smallest = max((s.smallest_effect for s in record.speedups), default=0.0)
    confidence = max((s.confidence for s in record.speedups), default=record.recipe.confidence)
    return Table(
        caption="Speed-up: median(FP32) / median(INT8) of one interleaved run",
        columns=columns(
            "INT8",
            "FP32",
            ">Threads",
            ">Speed-up",
            f">{percent(confidence, 0)} interval",
            "Verdict",
            "Note",
        ),
        rows=tuple(_speedup(s) for s in record.speedups),
        note=(
            f"A verdict needs the whole interval to lie more than {percent(smallest, 0)} from 1; "
            "nothing is concluded from an INVALID run."
        ),
    )


def _speedup(speedup: SpeedUp) -> tuple[Cell, ...]:
    timing = speedup.timing
    bounds = NONE
    if timing.low is not None and timing.high is not None:
        bounds = interval(number(timing.low, 2), number(timing.high, 2))
    note = speedup.note or ("" if speedup.same_runtime else "another runtime than FP32")
    return (
        code(speedup.int8),
        code(speedup.fp32),
        text(str(speedup.threads)),
        text(times(timing.ratio)),
        text(bounds),
        text(timing.verdict, _SPEED_TONES[timing.verdict]),
        text(note),
    )


def _startup_table(record: BenchRecord) -> Table:
    return Table(
        caption="Loading, first inference and memory, in a fresh process",
        columns=columns(
            "Artifact", ">Threads", ">Load", ">First inference", ">Peak memory", ">Added by it"
        ),
        rows=tuple(_startup(s) for s in record.startup),
    )


def _startup(startup: Startup) -> tuple[Cell, ...]:
    timing = startup.timing
    if timing is None:
        failure = text(startup.failure or "not measured", "bad")
        return (code(startup.artifact), text(str(startup.threads)), failure, *[text(NONE)] * 3)
    return (
        code(startup.artifact),
        text(str(startup.threads)),
        text(milliseconds(timing.load_ms)),
        text(milliseconds(timing.first_inference_ms)),
        text(size(timing.peak_bytes)),
        text(size(timing.added_bytes)),
    )


def criteria_table(record: BenchRecord) -> Table:
    """Return each run's conditions of a sound measurement, and what was found."""
    return Table(
        caption="Conditions of a sound measurement",
        columns=columns("Condition", ">Threads", ">Measured", ">Limit", "Worst at", "Met"),
        rows=tuple(_criterion(r, c) for r in record.runs for c in r.timing.criteria),
        note="A condition that this machine does not tell is not held against the run.",
    )


def _criterion(run: MeasuredRun, criterion: Criterion) -> tuple[Cell, ...]:
    met = text("yes") if criterion.met else text("no", "bad")
    if criterion.value is None:
        met = text("not told here", "muted")
    return (
        text(criterion.name),
        text(str(run.threads)),
        text(number(criterion.value, 3)),
        text(number(criterion.limit, 3)),
        text(criterion.where or NONE),
        met,
    )


def _skipped_table(record: BenchRecord) -> Table:
    return Table(
        caption="Not measured",
        columns=columns("Artifact", ">Threads", "Reason"),
        rows=tuple(
            (
                code(s.artifact) if s.artifact is not None else text("all"),
                text(NONE if s.threads is None else str(s.threads)),
                text(s.reason),
            )
            for s in record.skipped
        ),
    )
