"""The report as a document: verdict first, then claims, pictures, stages, provenance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from report.attack_section import attack_section, pictures_section
from report.bench_section import bench_section
from report.bundle_section import bundle_section
from report.check_section import check_section
from report.claims import claims_remarks, claims_table
from report.device_section import device_sections
from report.document import Block, Document, Gallery, Section, Table
from report.load import RunRecords
from report.provenance_section import (
    machine_section,
    provenance_section,
    training_section,
)
from report.reproduce_section import reproduce_section
from report.target_section import target_sections
from report.units import count, percent
from report.wording import lede, split_verdicts


def build_document(run: RunRecords, relative: dict[Path, str]) -> Document:
    """Return the whole report of a run as plain data.

    Args:
        run: the records.
        relative: path of each stored picture → how the Markdown file links to it.
    """
    recipe = run.recipe
    return Document(
        title=recipe.name if recipe is not None else run.folder.name,
        lede=lede(run),
        facts=_facts(run),
        verdicts=tuple(split_verdicts(s) for s in run.splits),
        sections=tuple(map(_without_empty, _sections(run, relative))),
    )


def _sections(run: RunRecords, relative: dict[Path, str]) -> tuple[Section, ...]:
    claims: tuple[Block, ...] = (claims_table(run), *claims_remarks(run))
    return (
        Section("claims", "The study's three claims", claims),
        pictures_section(run, relative),
        attack_section(run),
        bench_section(run),
        check_section(run),
        *target_sections(run),
        *device_sections(run),
        bundle_section(run),
        training_section(run),
        machine_section(run),
        reproduce_section(run),
        provenance_section(run),
    )


def _without_empty(section: Section) -> Section:
    """Leave out tables without rows and galleries without pictures: there is nothing to read."""
    blocks = (
        b
        for b in section.blocks
        if not (isinstance(b, Table) and not b.rows)
        and not (isinstance(b, Gallery) and not b.pictures)
    )
    return replace(section, blocks=tuple(blocks))


def _facts(run: RunRecords) -> tuple[tuple[str, str], ...]:
    facts = {"Splits": ", ".join(s.split for s in run.splits) or "none exported"}
    if run.recipe is not None:
        model = run.recipe.model
        facts["Network"] = f"{model.name} at {model.image_size} × {model.image_size}"
    data = run.training.data if run.training is not None else None
    if data is None:
        data = next((s.manifest.data for s in run.splits if s.manifest is not None), None)
    if data is not None:
        facts["Images"] = f"{data.source}, {len(data.classes)} classes"
        facts["Victims"] = count(data.victim.count)
    if run.training is not None:
        facts["Top-1 in FP32"] = percent(run.training.victim_accuracy.top1, 2)
    return tuple(facts.items())
