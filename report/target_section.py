"""Emulated ARM targets in tables: boundaries beside the host's, instructions, what leaks there."""

from __future__ import annotations

from collections.abc import Iterator

from records.attack import AttackRecord, training_sentence
from records.counted import counted
from records.instructions import InstructionRecord, Instructions
from records.parity import CheckRecord, LsbDifference
from records.target import SkippedArtifact, TargetRecord
from report.document import Block, Cell, Heading, Paragraph, Section, Table, code, columns, text
from report.load import RunRecords, TargetRecords
from report.units import all_gates, at_least_percent, decibels, number

_CLASSES = ("simd_fp", "dot", "mmla", "widening_multiply", "fmla")


def target_sections(run: RunRecords) -> tuple[Section, ...]:
    """Return one section when anything ran on an emulated target, else none."""
    blocks: list[Block] = []
    for split in run.splits:
        for target in split.targets:
            blocks.append(Heading(f"{split.split}, {target.target}"))
            blocks += _blocks(target)
    if not blocks:
        return ()
    title = "Emulated ARM: the same files on the kernels that ship"
    return (Section("targets", title, tuple(blocks)),)


def _blocks(records: TargetRecords) -> Iterator[Block]:
    present = [r for r in (records.check, records.instructions, records.attack) if r is not None]
    described = next((r.target for r in present if r.target is not None), None)
    if described is not None:
        yield Paragraph(_sentence(described))
    skipped = dict.fromkeys(skip for record in present for skip in record.skipped)
    if skipped:
        yield Paragraph(_skips(tuple(skipped)), "muted")
    if records.check is not None:
        yield from _check(records.check)
    if records.instructions is not None:
        yield from _instructions(records.instructions)
    if records.attack is not None:
        yield _attack(records.attack)


def _sentence(target: TargetRecord) -> str:
    runtimes = ", ".join(f"{name} {version}" for name, version in target.versions.items())
    by = "" if target.emulator is None else f" under {target.emulator}"
    return f"{target.cpu}{by}; {runtimes}."


def _skips(skipped: tuple[SkippedArtifact, ...]) -> str:
    return "Skipped: " + "; ".join(f"{skip.artifact} ({skip.reason})" for skip in skipped) + "."


def _check(record: CheckRecord) -> Iterator[Block]:
    failed = sum(not gate.passed for gate in record.gates)
    if failed:
        yield Paragraph(f"{failed} of {len(record.gates)} gates failed there.", "bad")
    else:
        yield Paragraph(f"{all_gates(len(record.gates))} passed there.", "good")
    from_eager = {(row.artifact, row.mode): row.lsb for row in record.artifacts}
    yield Table(
        caption=(
            f"Boundary of {counted(record.victims.count, 'victim')}: identical, within 1 LSB, "
            "largest difference in LSB"
        ),
        columns=columns(
            "Artifact",
            "Mode there",
            ">There against eager INT8",
            "Host's mode",
            ">Host against eager INT8",
            ">There against the host",
        ),
        rows=tuple(
            (
                code(row.artifact),
                text(row.mode),
                _lsb(from_eager.get((row.artifact, row.mode))),
                text(row.host_mode),
                _lsb(row.host_from_eager),
                _lsb(row.from_host),
            )
            for row in record.host
        ),
        note="Eager INT8 always runs on the host; an artifact's host mode is one row each.",
    )


def _lsb(lsb: LsbDifference | None) -> Cell:
    if lsb is None:
        return text("–")
    identical = at_least_percent(lsb.share_identical, 2)
    return text(f"{identical}, {at_least_percent(lsb.share_within_1_lsb, 2)}, {lsb.max_lsb}")


def _instructions(record: InstructionRecord) -> Iterator[Block]:
    if not record.passed:
        yield Paragraph(f"INVALID: two runs were more than {record.spread_limit:.1%} apart.", "bad")
    ratios = {ratio.int8: ratio.ratio for ratio in record.ratios}
    rows = [
        (code(one.artifact), *_counts(one.mean), text(_ratio(ratios.get(one.artifact))))
        for one in record.artifacts
    ]
    if record.call_overhead is not None:
        overhead = (text("(empty ONNX model)"), *_counts(record.call_overhead), text("–"))
        rows.append(overhead)
    yield Table(
        caption="Thousand instructions per inference of one image, one thread",
        columns=columns(
            "Artifact",
            ">All",
            ">SIMD and FP",
            ">Dot product",
            ">Matrix product",
            ">Widening multiply",
            ">FMLA",
            ">INT8 / FP32",
        ),
        rows=tuple(rows),
        note=f"{record.note[0].upper()}{record.note[1:]}. The classes overlap.",
    )


def _counts(counts: Instructions) -> tuple[Cell, ...]:
    found = (counts.all, *(getattr(counts, name) for name in _CLASSES))
    return tuple(text(number(value / 1e3, 1)) for value in found)


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"


def _attack(record: AttackRecord) -> Table:
    limits = {gate.artifact: gate.limit for gate in record.drift}
    verdicts = {verdict.artifact: verdict.verdict for verdict in record.verdicts}
    return Table(
        caption=(
            f"recon_psnr_db of {counted(record.data.victim.count, 'victim')} from outputs there"
        ),
        columns=columns(
            "Artifact", "Attacker", ">recon_psnr_db", ">Drift from eager INT8", ">Limit", "Verdict"
        ),
        rows=tuple(
            (
                code(artifact.name),
                text(f"{level.level}, seed {level.seed}"),
                text(decibels(level.result.recon_psnr_db.mean)),
                text(_drift(record, artifact.name, level.level)),
                text(decibels(limits[artifact.name]) if artifact.name in limits else "–"),
                text(verdicts.get(artifact.name, "–")),
            )
            for artifact in record.artifacts
            for level in artifact.levels
        ),
        note=training_sentence(record),
    )


def _drift(record: AttackRecord, artifact: str, level: str) -> str:
    wanted = (artifact, f"export_drift_{level}")
    found = [gate for gate in record.drift if (gate.artifact, gate.name) == wanted]
    if not found:
        return "–"
    return number(found[0].measured, 3, "dB") + ("" if found[0].passed else " (too much)")
