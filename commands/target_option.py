"""``--target`` and ``--target-cache`` of the verbs that run artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from records.target import SkippedArtifact, TargetRecord

target_option = click.option(
    "--target",
    "target_name",
    metavar="TARGET",
    default="host",
    show_default=True,
    help="host | cortex-a72 | cortex-a76, an emulated CPU: see edgeveil target.",
)
target_cache_option = click.option(
    "--target-cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of targets  [default: $EDGEVEIL_TARGETS, else ~/.cache/edgeveil/targets]",
)


def beside(bundle: Path, stem: str, target: str, suffix: str = "") -> Path:
    """Return where a record goes by default: beside the bundle's folder, named by its target."""
    name = stem if target == "host" else f"{stem}-{target}"
    return bundle.resolve().parent / f"{name}{suffix}"


def target_sentence(target: TargetRecord) -> str:
    """Return one line that says what ran the artifacts."""
    runtimes = ", ".join(f"{name} {version}" for name, version in target.versions.items())
    by = "" if target.emulator is None else f", emulated by {target.emulator}"
    return f"target {target.cpu} ({target.machine}{by}): {runtimes}"


def skipped_lines(skipped: tuple[SkippedArtifact, ...]) -> list[str]:
    """Return one line for each artifact that did not run on the target or here."""
    return [f"skipped {one.artifact}: {one.reason}" for one in skipped]
