"""``--target`` and ``--target-cache`` of the verbs that run artifacts."""

from __future__ import annotations

import re
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
    help="host | cortex-a72 | cortex-a76 (emulated: see edgeveil target) | ssh://[USER@]HOST.",
)
target_cache_option = click.option(
    "--target-cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of targets  [default: $EDGEVEIL_TARGETS, else ~/.cache/edgeveil/targets]",
)
ssh_config_option = click.option(
    "--ssh-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="EDGEVEIL_SSH_CONFIG",
    help="For ssh://: a config in place of your own  [default: $EDGEVEIL_SSH_CONFIG, else yours]",
)
python_option = click.option(
    "--python",
    "device_python",
    metavar="PATH",
    help="For ssh://: a Python there that has numpy and onnxruntime  [default: its python3, with "
    "pinned packages in ~/.cache/edgeveil there]",
)


def beside(bundle: Path, stem: str, target: str, suffix: str = "") -> Path:
    """Return where a record goes by default: beside the bundle's folder, named by its target."""
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", target).strip("-.")
    name = stem if target == "host" else f"{stem}-{label}"
    return bundle.resolve().parent / f"{name}{suffix}"


def target_sentence(target: TargetRecord) -> str:
    """Return one line that says what ran the artifacts."""
    runtimes = ", ".join(f"{name} {version}" for name, version in target.versions.items())
    by = "" if target.emulator is None else f", emulated by {target.emulator}"
    if target.kind == "device":
        by = f", {target.name}"
    return f"target {target.cpu} ({target.machine}{by}): {runtimes}"


def skipped_lines(skipped: tuple[SkippedArtifact, ...]) -> list[str]:
    """Return one line for each artifact that did not run on the target or here."""
    return [f"skipped {one.artifact}: {one.reason}" for one in skipped]
