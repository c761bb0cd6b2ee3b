"""The verdicts in plain sentences, with the figures that they rest on."""

from __future__ import annotations

from collections.abc import Callable

from records.attack import ArtifactVerdict, AttackRecord, Gate, Level, Verdict
from records.manifest import WireTensor
from report.document import SplitVerdicts, Tone, VerdictLine
from report.leaks import ATTACKERS, baseline_psnr_db, find_artifact, floor_db, mean_psnr_db
from report.load import RunRecords, SplitRecords
from report.units import NONE, as_sentence, bit_width, count, decibels, percent, shape, size, small

TONES: dict[Verdict, Tone] = {"HOLDS": "good", "DENIED": "bad", "INCONCLUSIVE": "warn"}


def split_verdicts(records: SplitRecords) -> SplitVerdicts:
    """Return the verdict of every INT8 artifact of a split, or the note that none was given."""
    attack = records.attack
    if attack is None:
        return SplitVerdicts(
            split=records.split,
            boundary=_boundary(records),
            lines=(),
            notes=(_not_attacked_here(records),),
        )
    return SplitVerdicts(
        split=records.split,
        boundary=_boundary(records),
        lines=_lines(attack),
        notes=_notes(attack),
    )


def _not_attacked_here(records: SplitRecords) -> str:
    attacks = [(t.target, t.attack) for t in records.targets if t.attack is not None]
    if not attacks:
        return "The attack was not run: nothing is known about what this split leaks."
    said = "; ".join(f"{name}: {attack.verdict}" for name, attack in attacks)
    return f"The attack was run on outputs of emulated ARM targets alone. {said}."


def lede(run: RunRecords) -> str:
    """Return the report's first sentence: the question, and how often each verdict was given."""
    words = [v.verdict for s in run.splits if s.attack is not None for v in s.attack.verdicts]
    if not words:
        elsewhere = [t.target for s in run.splits for t in s.targets if t.attack is not None]
        known = "no attack was run"
        if elsewhere:
            known += f" on this host; what {', '.join(elsewhere)} sends was attacked, see below"
        return f"Does quantizing to INT8 hide the input image? Not known: {known}."
    named: tuple[Verdict, ...] = ("DENIED", "INCONCLUSIVE", "HOLDS")
    tally = ", ".join(f"{words.count(word)} {word}" for word in named if word in words)
    noun = "artifact" if len(words) == 1 else "artifacts"
    answers: dict[Verdict, str] = {
        "DENIED": "No",
        "HOLDS": "Yes, against the attackers tried",
        "INCONCLUSIVE": "Undecided",
    }
    answer = answers[words[0]] if len(set(words)) == 1 else "It depends on the artifact"
    return (
        f"Does quantizing to INT8 hide the input image from whoever sees the features? "
        f"{answer}: of {len(words)} INT8 {noun}, {tally}."
    )


def sentence(record: AttackRecord, verdict: ArtifactVerdict) -> str:
    """Return one artifact's verdict as a plain sentence with its numbers."""
    writers: dict[Verdict, Callable[[AttackRecord, ArtifactVerdict], str]] = {
        "DENIED": _denied,
        "HOLDS": _holds,
        "INCONCLUSIVE": _inconclusive,
    }
    return writers[verdict.verdict](record, verdict)


def gate_text(gate: Gate) -> str:
    """Return a gate as ``name of artifact: measured, required relation limit``."""
    of = "" if gate.artifact is None else f" of {gate.artifact}"
    measured, limit = small(gate.measured, 2, gate.unit), small(gate.limit, 2, gate.unit)
    return f"{gate.name}{of}: {measured}, required {gate.relation} {limit}"


def _lines(record: AttackRecord) -> tuple[VerdictLine, ...]:
    """Return one line per distinct verdict: artifacts with the same figures share it."""
    shared: dict[tuple[Verdict, str, str], list[str]] = {}
    for verdict in record.verdicts:
        said = verdict.verdict, sentence(record, verdict), _figures(record, verdict.artifact)
        shared.setdefault(said, []).append(verdict.artifact)
    return tuple(
        VerdictLine(tuple(artifacts), word, TONES[word], plain, figures)
        for (word, plain, figures), artifacts in shared.items()
    )


def _figures(record: AttackRecord, name: str) -> str:
    artifact = find_artifact(record, name)
    if artifact is None:
        return ""
    texts = [f"FP32 features {decibels(baseline_psnr_db(record))}"]
    levels: tuple[Level, ...] = ("A0", "A1", "A2", "A3", "A4")
    for level in levels:
        mean = mean_psnr_db(artifact, level)
        if mean is None and level not in ("A0", "A1"):
            continue
        texts.append(f"{level} {NONE if mean is None else decibels(mean)}")
    texts.append(f"mean image {decibels(floor_db(record))}")
    return "recon_psnr_db: " + ", ".join(texts)


def _denied(record: AttackRecord, verdict: ArtifactVerdict) -> str:
    bound = (
        f"at most {decibels(verdict.upper_db)} at {_confidence(record)}"
        if verdict.upper_db > 0
        else f"{decibels(verdict.upper_db)} as the upper bound at {_confidence(record)}"
    )
    return f"{_rebuilds(record, verdict)} ({bound}); {_margin(record)}."


def _holds(record: AttackRecord, verdict: ArtifactVerdict) -> str:
    bound = f"at least {decibels(verdict.lower_db)} at {_confidence(record)}"
    return f"Even {_lower_first(_rebuilds(record, verdict))} ({bound}); {_margin(record)}."


def _inconclusive(record: AttackRecord, verdict: ArtifactVerdict) -> str:
    failed = _failed_for(record, verdict)
    bounds = f"between {decibels(verdict.lower_db)} and {decibels(verdict.upper_db)}"
    figures = f"{_rebuilds(record, verdict)} ({bounds} at {_confidence(record)})"
    if failed:
        others = "" if len(failed) == 1 else f" and {len(failed) - 1} more"
        return (
            f"A control failed ({gate_text(failed[0])}{others}), so no verdict may be given. "
            f"What was measured: {_lower_first(figures)}; {_margin(record)}."
        )
    if verdict.lower_db <= record.margin_db <= verdict.upper_db:
        return f"{figures}; {_margin(record)} and lies inside that range."
    return f"{figures}; {_margin(record)}. {as_sentence(verdict.reason)}"


def _failed_for(record: AttackRecord, verdict: ArtifactVerdict) -> tuple[Gate, ...]:
    """Return the failed gates that void this verdict: not those of other artifacts' drift."""
    controls = tuple(g for g in record.controls.gates if not g.passed)
    own = tuple(g for g in record.drift if not g.passed and g.artifact == verdict.artifact)
    return controls + own


def _rebuilds(record: AttackRecord, verdict: ArtifactVerdict) -> str:
    artifact = find_artifact(record, verdict.artifact)
    attacker = ATTACKERS[artifact.strongest] if artifact is not None else "the strongest attacker"
    direction = "better" if round(verdict.advantage_db, 2) < 0 else "worse"
    gap = decibels(abs(verdict.advantage_db))
    return (
        f"{attacker[0].upper()}{attacker[1:]} rebuilds pictures {gap} {direction} "
        "than from FP32 features"
    )


def _margin(record: AttackRecord) -> str:
    if record.pre_registered:
        return f"the margin fixed beforehand was {decibels(record.margin_db)}"
    return (
        f"the margin was {decibels(record.margin_db)}, and was not fixed beforehand "
        "(this attack's recipe is not the one sealed in the bundle)"
    )


def _confidence(record: AttackRecord) -> str:
    return f"one-sided {percent(record.confidence, 0)} confidence"


def _lower_first(value: str) -> str:
    return value[0].lower() + value[1:]


def _notes(record: AttackRecord) -> tuple[str, ...]:
    notes = [] if record.note is None else [record.note]
    if not any(r.level == "A1" for a in record.artifacts for r in a.levels):
        notes.append(
            "The adaptive attacker A1 was not run: a verdict from A0 alone shows that a decoder "
            "no longer fits, not that anything is hidden."
        )
    return tuple(notes)


def _boundary(records: SplitRecords) -> str:
    if records.manifest is not None:
        wire = records.manifest.wire.shape
        sent = records.manifest.wire.packed_bytes
    elif records.attack is not None:
        wire = records.attack.boundary_shape
        sent = records.attack.wire_bytes_per_image
    else:
        return ""
    values = 1
    for dimension in wire:
        values *= dimension
    bits = "" if records.manifest is None else _bits(records.manifest.wire)
    return f"sends {shape(wire)} = {count(values)} values{bits}, {size(sent)} per image"


def _bits(wire: WireTensor) -> str:
    return "" if wire.bits == 8 else f" of {bit_width(wire.bits)}"
