"""The attack in pictures, plots and tables: what each artifact leaks, controls, gates, drift."""

from __future__ import annotations

from pathlib import Path

from records.attack import (
    ArtifactAttack,
    AttackRecord,
    Candidate,
    Gate,
    LevelResult,
    Reconstruction,
)
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
    code,
    columns,
    text,
)
from report.leaks import find_artifact, floor_db, results_of
from report.load import RunRecords, SplitRecords, StoredPicture
from report.units import (
    NONE,
    as_sentence,
    count,
    decibels,
    interval,
    number,
    percent,
    seconds,
    shape,
    size,
    small,
)
from report.wording import TONES


def pictures_section(run: RunRecords, relative: dict[Path, str]) -> Section:
    """Return the study's pictures and the distributions of ``recon_psnr_db``, split by split.

    Args:
        run: the records.
        relative: path of a stored picture → how the Markdown file links to it.
    """
    blocks: list[Block] = []
    for records in run.splits:
        blocks.append(Heading(records.split, code=True))
        if records.attack is None:
            blocks.append(Paragraph("Not run: there are no reconstructions to show.", "muted"))
            continue
        shown = tuple(
            _picture(p, p.png, relative[p.path], records.attack)
            for p in records.pictures
            if p.png is not None
        )
        missing = [p.record.file for p in records.pictures if p.png is None]
        if shown:
            blocks.append(Gallery(shown))
        if missing:
            blocks.append(Paragraph(f"Not found beside the record: {', '.join(missing)}.", "warn"))
        blocks.append(Gallery(_distributions(records.attack)))
    if not run.splits:
        blocks.append(Paragraph("Not run.", "muted"))
    return Section("pictures", "What an attacker sees", tuple(blocks))


def attack_section(run: RunRecords) -> Section:
    """Return the attack's figures, controls, gates and drift, split by split."""
    blocks: list[Block] = []
    for records in run.splits:
        blocks.append(Heading(records.split, code=True))
        if records.attack is None:
            blocks.append(Paragraph("Not run.", "muted"))
        else:
            blocks += _attack(records)
    if not run.splits:
        blocks.append(Paragraph("Not run.", "muted"))
    return Section("attack", "Attack", tuple(blocks))


def _picture(stored: StoredPicture, png: bytes, file: str, record: AttackRecord) -> Picture:
    victims = len(stored.record.victims)
    return Picture(
        media="image/png",
        data=png,
        alt=f"{stored.record.title} ({record.split}, {victims} victim images).",
        caption=f"{stored.record.title}. Victims {_listed(stored.record.victims)}.",
        file=file,
        wide=True,
    )


def _listed(victims: tuple[int, ...]) -> str:
    return ", ".join(str(v) for v in victims) or NONE


def _distributions(record: AttackRecord) -> tuple[Picture, ...]:
    """Return one plot per distinct set of outputs among the judged artifacts."""
    judged = {v.artifact for v in record.verdicts}
    groups: dict[str, list[ArtifactAttack]] = {}
    for artifact in record.artifacts:
        if artifact.name in judged:
            groups.setdefault(artifact.same_outputs_as or artifact.name, []).append(artifact)
    return tuple(_distribution(record, group) for group in groups.values())


def _distribution(record: AttackRecord, group: list[ArtifactAttack]) -> Picture:
    artifact, names = group[0], ", ".join(a.name for a in group)
    baseline = find_artifact(record, record.baseline)
    lines: list[tuple[str, LevelResult]] = []
    if baseline is not None:
        lines += [("FP32 features", r) for r in results_of(baseline, baseline.strongest)[:1]]
    for level in ("A0", "A1"):
        lines += [(f"INT8, {level}", r) for r in results_of(artifact, level)[:1]]
    series = [
        plots.Series(
            label, r.result.histogram.first_db, r.result.histogram.bin_db, r.result.histogram.counts
        )
        for label, r in lines
    ]
    floor = floor_db(record)
    means = ", ".join(f"{label} {decibels(r.result.recon_psnr_db.mean)}" for label, r in lines)
    return Picture(
        media="image/svg+xml",
        data=plots.psnr_distribution(series, floor),
        alt=(
            f"Distribution of recon_psnr_db over the victims for {names}; means: {means}; "
            f"floor {decibels(floor)}."
        ),
        caption=(
            f"Share of the victim images that are rebuilt at least so well from the outputs of "
            f"{names}; further right is a better reconstruction."
        ),
    )


def _attack(records: SplitRecords) -> list[Block]:
    record = records.attack
    if record is None:
        return []
    data = record.data
    pool = (
        "the images that trained the network"
        if data.attacker_pool == "train"
        else "images that the network was not trained on"
    )
    return [
        Paragraph(
            f"{count(data.victim.count)} victims and {count(data.attacker.count)} attacker images "
            f"of {data.source} ({pool}; {count(data.validation_images)} of them held out to stop "
            f"the training), scored at {data.native_size} × {data.native_size} pixels, data range "
            f"1. Boundary {shape(record.boundary_shape)}, {size(record.wire_bytes_per_image)} per "
            "image."
        ),
        Paragraph(as_sentence(f"Decoder: {record.decoder}")),
        _verdict_table(record),
        _leak_table(record),
        _control_table(record),
        _gate_table("Controls with their gates", record.controls.gates),
        _drift_table(record),
        _decoder_table(record),
    ]


def _verdict_table(record: AttackRecord) -> Table:
    confidence = percent(record.confidence, 0)
    return Table(
        caption="Verdicts: max-leak(FP32) − max-leak(artifact)",
        columns=columns(
            "Artifact",
            "Verdict",
            ">Advantage over FP32",
            f">Bounds, one-sided {confidence}",
            ">Margin",
            "Reason",
        ),
        rows=tuple(
            (
                code(v.artifact),
                text(v.verdict, TONES[v.verdict]),
                text(decibels(v.advantage_db)),
                text(interval(decibels(v.lower_db), decibels(v.upper_db))),
                text(decibels(record.margin_db)),
                text(v.reason),
            )
            for v in record.verdicts
        ),
        note=(
            f"HOLDS: the lower bound exceeds the margin. DENIED: the upper bound is below it. "
            f"Paired bootstrap over victims, {count(record.resamples)} resamples; FP32 is "
            f"{record.baseline}."
        ),
    )


def _leak_table(record: AttackRecord) -> Table:
    return Table(
        caption="How well each artifact's outputs rebuild the victims",
        columns=columns(
            "Artifact",
            "Attacker",
            ">recon_psnr_db",
            ">p5 to p95",
            ">recon_psnr_pooled_db",
            ">recon_ssim",
            ">leak_db",
            "Runtime",
        ),
        rows=tuple(_leak(a, r) for a in record.artifacts for r in a.levels),
        note=(
            "recon_psnr_db is the mean over images (low is private); the pooled figure comes from "
            "the MSE pooled over images. leak_db is recon_psnr_db minus the floor's."
        ),
    )


def _leak(artifact: ArtifactAttack, result: LevelResult) -> tuple[Cell, ...]:
    seed = f", seed {result.seed}" if _seeds(artifact) > 1 else ""
    strongest = " (strongest)" if result.level == artifact.strongest else ""
    mode = f", {artifact.runtime_mode}" if artifact.runtime_mode else ""
    return (
        code(artifact.name),
        text(f"{result.level}{strongest}{seed}"),
        *_figures(result.result),
        text(decibels(result.result.leak_db)),
        text(artifact.runtime + mode),
    )


def _seeds(artifact: ArtifactAttack) -> int:
    return len({r.seed for r in artifact.levels})


def _figures(result: Reconstruction) -> tuple[Cell, ...]:
    psnr = result.recon_psnr_db
    return (
        text(decibels(psnr.mean)),
        text(interval(decibels(psnr.p5), decibels(psnr.p95))),
        text(decibels(result.recon_psnr_pooled_db)),
        text(number(result.recon_ssim.mean, 3)),
    )


def _control_table(record: AttackRecord) -> Table:
    controls = record.controls
    rows = (
        ("floor", "the attacker set's mean image", controls.floor),
        ("mean colour", "each victim's own mean colour, for scale", controls.mean_colour),
        ("ceiling", "the same attack code on a pass-through edge", controls.ceiling),
    )
    return Table(
        caption="What to read the figures against",
        columns=columns(
            "Control",
            "Reconstruction",
            ">recon_psnr_db",
            ">p5 to p95",
            ">recon_psnr_pooled_db",
            ">recon_ssim",
        ),
        rows=tuple((text(name), text(what), *_figures(result)) for name, what, result in rows),
    )


def _gate_table(caption: str, gates: tuple[Gate, ...], note: str = "") -> Table:
    return Table(
        caption=caption,
        columns=columns("Gate", "Artifact", ">Measured", ">Required", "Result", "Meaning"),
        rows=tuple(
            (
                text(g.name),
                text(NONE) if g.artifact is None else code(g.artifact),
                text(small(g.measured, 2, g.unit)),
                text(f"{g.relation} {small(g.limit, 2, g.unit)}"),
                text("passed", "good") if g.passed else text("failed", "bad"),
                text(g.meaning),
            )
            for g in gates
        ),
        note=note,
    )


def _drift_table(record: AttackRecord) -> Block:
    if not record.drift:
        return Paragraph("Export drift: not measured, there is nothing to compare.", "muted")
    return _gate_table(
        "Export drift: each artifact against eager INT8 under the same attack",
        record.drift,
        "Beyond the tolerance the export itself has changed what leaks.",
    )


def _decoder_table(record: AttackRecord) -> Table:
    rows = [
        _decoder(artifact.name, result.level, result.candidates, result.chosen)
        for artifact in record.artifacts
        if artifact.same_outputs_as is None
        for result in artifact.levels
    ]
    ceiling = record.controls.ceiling_candidates
    if ceiling:
        best = min(range(len(ceiling)), key=lambda i: ceiling[i].best_val_loss)
        rows.append(_decoder("pass-through", "ceiling", ceiling, best))
    return Table(
        caption="Decoders: of those tried, the one with the lowest validation loss",
        columns=columns(
            "Outputs of",
            "Attacker",
            ">Tried",
            "Start",
            "Capacity",
            ">Parameters",
            ">Epochs",
            ">Validation MSE",
            "Stopped by",
            ">Time of all",
        ),
        rows=tuple(rows),
        note="Artifacts with the outputs of another share its decoders.",
    )


def _decoder(
    name: str, level: str, candidates: tuple[Candidate, ...], chosen: int
) -> tuple[Cell, ...]:
    candidate = candidates[chosen]
    return (
        code(name),
        text(level),
        text(count(len(candidates))),
        text(candidate.start),
        text(candidate.capacity),
        text(count(candidate.parameters)),
        text(count(candidate.epochs)),
        text(small(candidate.best_val_loss, 5)),
        text(candidate.stopped),
        text(seconds(sum(c.seconds for c in candidates))),
    )
