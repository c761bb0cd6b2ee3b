"""The record of ``doctor``: what this installation and this machine can and cannot do."""

from __future__ import annotations

from typing import Literal

import msgspec

from records.machine import MachineRecord
from records.target import TargetState

SCHEMA = "edgeveil.doctor/2"


class DoctorPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class RuntimeHealth(DoctorPart, frozen=True, kw_only=True):
    """One runtime: ``works`` is the answer of a small real program run in a fresh process.

    ``detail``: what the program found, or why it failed.
    """

    runtime: Literal["ort", "lite", "executorch", "litert"]
    version: str | None
    works: bool
    detail: str


class VerbHealth(DoctorPart, frozen=True, kw_only=True):
    """One verb of the command line, and the packages that it needs and that are missing."""

    verb: str
    missing: tuple[str, ...]


class SourceHealth(DoctorPart, frozen=True, kw_only=True):
    """One data source; ``detail`` says why not, or what it still needs.

    ``state``: ``with data`` and ``with --download`` are readable here, and the images are not here
    yet. ``no``: a package is missing.
    """

    source: str
    state: Literal["ready", "with data", "with --download", "no"]
    detail: str


class DoctorRecord(DoctorPart, frozen=True, kw_only=True):
    """Everything that ``doctor`` found.

    ``install``: the pip command that brings what is missing, None when nothing is.
    ``follows``: what the CPU's features mean for the figures. ``skipped``: what will be skipped
    here and why. ``targets``: the emulated ones, and what each still needs.
    """

    schema: Literal["edgeveil.doctor/2"] = "edgeveil.doctor/2"
    machine: MachineRecord
    runtimes: tuple[RuntimeHealth, ...]
    verbs: tuple[VerbHealth, ...]
    sources: tuple[SourceHealth, ...]
    install: str | None
    follows: tuple[str, ...]
    skipped: tuple[str, ...]
    targets: tuple[TargetState, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the core runtime, ONNX Runtime, works here."""
        return any(r.runtime == "ort" and r.works for r in self.runtimes)
