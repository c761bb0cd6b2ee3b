"""Instructions, agreement and privacy on ARM CPUs as a README's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from records.arm_comparison import ArmComparisonRecord
from records.arm_results import ArmAttack, ArmCount, ArmParity, ArmResults
from records.instructions import ArtifactInstructions, InstructionRecord

#: Format of a file by the end of an artifact's name.
_FORMATS = {"lite": "`.ptl`", "onnx": "`.onnx`", "ort": "`.ort`", "pte": "`.pte`"}


def arm_markdown(results: ArmResults) -> str:
    """Return Markdown tables: cost, ours beside plain exports, agreement, and privacy.

    Args:
        results: of ``report.arm_results``.

    Returns:
        Markdown ending in a newline; empty tables are left out.
    """
    cpus = list(dict.fromkeys(count.record.target.name for count in results.counts))
    tables = (
        _counts(results.counts, cpus),
        _comparisons(results.comparisons),
        _against_executorch(results.comparisons),
        _parity(results.parity),
        _attacks(results.attacks),
    )
    return "\n".join(table for table in tables if table)


def _counts(counts: Sequence[ArmCount], cpus: Sequence[str]) -> str:
    if not counts:
        return ""
    head = ["cut", "pixels", "format"]
    head += [f"{cpu}: {what}" for cpu in cpus for what in ("FP32", "INT8", "INT8 / FP32")]
    rows = []
    for split, size in dict.fromkeys((c.record.split, c.image_size) for c in counts):
        of = {
            c.record.target.name: c.record
            for c in counts
            if (c.record.split, c.image_size) == (split, size)
        }
        kinds = dict.fromkeys(_kind(a.artifact) for record in of.values() for a in record.artifacts)
        for kind in kinds:
            cells = [cell for cpu in cpus for cell in _costs(of.get(cpu), kind)]
            rows.append([f"`{split}`", str(size), _FORMATS.get(kind, f"`.{kind}`"), *cells])
    limit = max(c.record.spread_limit for c in counts)
    basis = (
        "Thousand instructions of one inference of one image, one thread, float boundary; two "
        f"fresh processes at most {100 * limit:g} % apart. Instructions are not cycles."
    )
    return _table(basis, head, rows, left=3)


def _kind(artifact: str) -> str:
    return artifact.rpartition("_")[2]


def _costs(record: InstructionRecord | None, kind: str) -> tuple[str, str, str]:
    found = {} if record is None else {one.artifact: one for one in record.artifacts}
    fp32, int8 = (found.get(f"edge_{precision}_{kind}") for precision in ("fp32", "int8"))
    ratio = f"{int8.mean.all / fp32.mean.all:.2f}×" if fp32 and int8 else "–"
    return _thousands(fp32), _thousands(int8), ratio


def _thousands(one: ArtifactInstructions | None) -> str:
    return "–" if one is None else f"{one.mean.all / 1000:,.0f}"


def _comparisons(records: Sequence[ArmComparisonRecord]) -> str:
    if not records:
        return ""
    rows = []
    for record in records:
        plain = " / ".join(
            f"{one.counted.mean.all / 1000:,.0f} ({one.activations})" for one in record.plain
        )
        most = max(one.ratio for one in record.plain)
        fp32 = f"{record.fp32.mean.all / 1000:,.0f}"
        cells = [fp32, f"{record.ours.mean.all / 1000:,.0f}"]
        cells += [f"{record.ours.mean.all / record.fp32.mean.all:.2f}×", plain]
        cells += [f"{100 * (1 - most):.1f} %"]
        rows.append([f"`{record.split}`", str(record.input_shape[-1]), record.target.name, *cells])
    tools = ", ".join(dict.fromkeys(f"`{one.tool}`" for r in records for one in r.plain))
    head = ["cut", "pixels", "CPU", "FP32", "ours", "ours / FP32", "plain", "fewer, at least"]
    basis = f"Our QDQ ONNX beside {tools} of the same FP32 edge on the same calibration images."
    return _table(basis, head, rows, left=3)


def _against_executorch(records: Sequence[ArmComparisonRecord]) -> str:
    rows = []
    for record in records:
        own = record.executorch
        if own is None:
            continue
        best = next(one for one in own.int8 if one.artifact == own.best)
        counts = [f"{one.mean.all / 1000:,.0f}" for one in (own.counted, best)]
        cells = [record.target.name, f"`{own.best}`", *counts, f"{own.ratio:.3f}×"]
        cells += ["**not above**" if own.not_above else "**ABOVE**"]
        rows.append([f"`{record.split}`", str(record.input_shape[-1]), *cells])
    if not rows:
        return ""
    images = min(r.calibration_images for r in records if r.executorch)
    basis = (
        "The bundle's best INT8 edge beside ExecuTorch's own export of the same FP32 edge (PT2E, "
        f"`XNNPACKQuantizer`, static, one scale a channel), calibrated on at least {images} of the "
        "same images; thousand instructions."
    )
    head = ["cut", "pixels", "CPU", "best", "ExecuTorch's own", "the best", "best / own", "gate"]
    return _table(basis, head, rows, left=4)


def _parity(rows: Sequence[ArmParity]) -> str:
    if not rows:
        return ""
    # The wire artifact is what is sent; `check` holds its twin with a float boundary to it.
    sent = [row for row in rows if "_wire_" in row.artifact] or rows
    cells = [
        [
            f"`{row.split}`",
            str(row.image_size),
            row.cpu,
            f"`{row.artifact}`",
            f"{100 * row.within_1_lsb:.2f} %",
            f"{100 * row.within_2_lsb:.3f} %",
            str(row.max_lsb),
            "–" if row.as_host is None else f"{100 * row.as_host:.2f} %",
            ", ".join(f"{mode} {100 * share:.2f} %" for mode, share in row.host.items()) or "–",
        ]
        for row in sent
    ]
    victims = min(row.victims for row in rows)
    basis = (
        f"Boundary values of the ARM kernels against eager FX INT8, {victims:,} victims; beside "
        "them the same file on the host that made this table: how many values are identical, and "
        "the host's own share within 1 LSB by mode."
    )
    head = ["cut", "pixels", "CPU", "artifact", "≤ 1 LSB", "≤ 2 LSB", "max", "as host", "host"]
    return _table(basis, head, cells, left=4)


def _attacks(rows: Sequence[ArmAttack]) -> str:
    if not rows:
        return ""
    sent = [row for row in rows if "_wire_" in row.artifact] or rows
    levels = list(dict.fromkeys(level for row in rows for level in row.db))
    cells = [
        [
            f"`{row.split}`",
            row.cpu,
            f"`{row.artifact}`",
            *(_level(row, level) for level in levels),
            f"**{row.verdict}**",
        ]
        for row in sent
    ]
    basis = (
        f"Decoders fed with the ARM kernels' outputs, {min(r.victims for r in rows):,} victims, "
        f"{max(r.attacker_images for r in rows):,} attacker images: `recon_psnr_db`, and what it "
        "is more than from eager INT8."
    )
    return _table(basis, ["cut", "CPU", "artifact", *levels, "verdict"], cells, left=3)


def _level(row: ArmAttack, level: str) -> str:
    more = row.db[level] - row.eager_db.get(level, row.db[level])
    return f"{row.db[level]:.2f} ({more:+.3f})"


def _table(basis: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    rule = ["---" if at < left else "---:" for at in range(len(head))]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
    return "\n".join([basis, "", *lines, ""])
