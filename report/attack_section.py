"""The attack in pictures, plots and tables: what each artifact leaks, controls, gates, drift."""

from __future__ import annotations

from pathlib import Path

from records.attack import (
    ArtifactAttack,
    AttackRecord,
    Candidate,
    Gate,
    Level,
    LevelResult,
    Reconstruction,
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
    code,
    columns,
    text,
)
from report.leaks import find_artifact, floor_db, mean_psnr_db, query_curve, results_of
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

_WHITE_BOX_NOTE = (
    " A2 attacks the first victims only; in the verdict its mean over all victims is A1's plus "
    "A2's gain over A1 on the same images."
)
_DESCENT_NOTE = (
    " A2's rows are settings of the descent on the image, tried on held-out attacker images; its "
    "parameters are pixel values, its epochs iterations."
)


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
        lines += [("FP32 features", r) for r in _most_queries(baseline, baseline.strongest)]
    for level in dict.fromkeys(r.level for r in artifact.levels):
        lines += [(f"INT8, {level}", r) for r in _most_queries(artifact, level)]
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


def _most_queries(artifact: ArtifactAttack, level: Level) -> tuple[LevelResult, ...]:
    """Return a level's result with the first seed and the most training pairs; or none."""
    results = results_of(artifact, level)
    first = [r for r in results if r.seed == results[0].seed]
    return tuple(sorted(first, key=lambda r: r.queries or 0)[-1:])


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
            f"{counted(data.victim.count, 'victim')} and "
            f"{counted(data.attacker.count, 'attacker image')} "
            f"of {data.source} ({pool}; {count(data.validation_images)} of them held out to stop "
            f"the training), scored at {data.native_size} × {data.native_size} pixels, data range "
            f"1. Boundary {shape(record.boundary_shape)}, {size(record.wire_bytes_per_image)} per "
            "image."
        ),
        Paragraph(as_sentence(f"Decoder: {record.decoder}")),
        _verdict_table(record),
        _leak_table(record),
        *_budget_blocks(record),
        *_foreign_blocks(record),
        _recovery_table(record),
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
            + (_WHITE_BOX_NOTE if "A2" in record.recipe.levels else "")
        ),
    )


def _budget_blocks(record: AttackRecord) -> list[Block]:
    """Return the curve over query budgets, and what was left out of it."""
    curves = [
        (artifact, query_curve(artifact))
        for artifact in record.artifacts
        if artifact.same_outputs_as is None
    ]
    budgets = [queries for queries, _ in curves[0][1]] if curves else []
    blocks: list[Block] = []
    if budgets:
        blocks.append(
            Table(
                caption="Query budgets: recon_psnr_db by the attacker's training pairs (A3)",
                columns=columns(
                    "Artifact",
                    *(f">{count(queries)}" for queries in budgets),
                    f">{count(record.data.attacker.count)} (A1)",
                ),
                rows=tuple(
                    (
                        code(artifact.name),
                        *(text(decibels(db)) for _, db in curve),
                        text(decibels(mean_psnr_db(artifact, "A1"))),
                    )
                    for artifact, curve in curves
                ),
                note="A3 trains decoders of the smallest capacity.",
            )
        )
    if record.data.left_out_budgets:
        left = ", ".join(count(queries) for queries in record.data.left_out_budgets)
        blocks.append(
            Paragraph(
                f"Query budgets of {left} were left out: the attacker has "
                f"{count(record.data.attacker.count)} images, and A1 learns from all of them."
            )
        )
    return blocks


def _foreign_blocks(record: AttackRecord) -> list[Block]:
    data = record.data
    if data.ood is None:
        return []
    return [Paragraph(f"A4 learns from {count(data.ood.count)} images of {data.ood_source}.")]


def _recovery_table(record: AttackRecord) -> Table:
    return Table(
        caption="What else is recovered",
        columns=columns(
            "Artifact",
            "Attacker",
            ">Re-identified (rank-1)",
            ">Of so many",
            ">True label",
            ">Label of the original",
            ">Reconstructions",
        ),
        rows=tuple(_recovered(a, r) for a in record.artifacts for r in a.levels),
        note=(
            "Re-identified: the nearest original by MSE is the right one. True label: the whole "
            "FP32 network, shown the reconstruction, finds the victim's class; of the originals it "
            f"finds {percent(record.controls.original_top1, 1)}."
        ),
    )


def _recovered(artifact: ArtifactAttack, result: LevelResult) -> tuple[Cell, ...]:
    recovery = result.recovery
    return (
        code(artifact.name),
        text(_attacker(artifact, result)),
        text(percent(recovery.reidentified, 1)),
        text(count(recovery.gallery)),
        text(percent(recovery.label_top1, 1)),
        text(percent(recovery.label_agreement, 1)),
        text(count(recovery.probes)),
    )


def _leak(artifact: ArtifactAttack, result: LevelResult) -> tuple[Cell, ...]:
    mode = f", {artifact.runtime_mode}" if artifact.runtime_mode else ""
    return (
        code(artifact.name),
        text(_attacker(artifact, result)),
        *_figures(result.result),
        text(decibels(result.result.leak_db)),
        text(artifact.runtime + mode),
    )


def _attacker(artifact: ArtifactAttack, result: LevelResult) -> str:
    strongest = " (strongest)" if result.level == artifact.strongest else ""
    queries = "" if result.queries is None else f", {count(result.queries)} pairs"
    most = max(r.victims for r in artifact.levels)
    few = f", {counted(result.victims, 'victim')}" if result.victims < most else ""
    seed = f", seed {result.seed}" if _seeds(artifact) > 1 else ""
    return f"{result.level}{strongest}{queries}{few}{seed}"


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
    rows = [
        ("floor", "the attacker set's mean image", controls.floor),
        ("mean colour", "each victim's own mean colour, for scale", controls.mean_colour),
        ("ceiling", "the same attack code on a pass-through edge", controls.ceiling),
        *(
            ("logits", f"the server's answers to {name}, in the place of the boundary", found)
            for name, found in controls.logits.items()
        ),
    ]
    if controls.bits16 is not None:
        rows.append(("16 bits", f"{record.baseline} rounded to 16 bits", controls.bits16))
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
        note=(
            "Artifacts with the outputs of another share its decoders."
            + (_DESCENT_NOTE if "A2" in record.recipe.levels else "")
        ),
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
