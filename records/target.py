"""The record of a target: the CPU, emulator and runtimes that artifacts ran on."""

from __future__ import annotations

from typing import Literal

import msgspec

from records.manifest import Sha256


class TargetPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class TargetRecord(TargetPart, frozen=True, kw_only=True):
    """What ran the artifacts, where it was not this process.

    ``kind``: ``emulated`` runs real ARM code, so its outputs and instruction counts are those of
    the CPU, and its times are nobody's. ``machine``: as the runner's own ``uname -m`` says.
    ``features``: of the CPU, as Linux names them. ``emulator``: name and version, None on a device.
    ``versions``: of Python and the runtimes, as the runner itself says. ``wheels``: file →
    SHA-256 of what was installed there. ``system``: Debian package → version of the sysroot.
    """

    name: str
    kind: Literal["emulated", "device"]
    cpu: str
    machine: str
    features: tuple[str, ...]
    emulator: str | None
    versions: dict[str, str]
    wheels: dict[str, Sha256]
    system: dict[str, str]


class SkippedArtifact(TargetPart, frozen=True, kw_only=True):
    """An artifact that did not run on the target or on this installation, and why."""

    artifact: str
    reason: str


class PartState(TargetPart, frozen=True, kw_only=True):
    """One part of an emulated target in the cache; ``detail`` says what is there or missing.

    ``optional``: the target works without it, but not every artifact runs.
    """

    part: str
    ready: bool
    optional: bool
    detail: str


class TargetState(TargetPart, frozen=True, kw_only=True):
    """One target that can be prepared, part by part."""

    target: str
    folder: str
    parts: tuple[PartState, ...]

    @property
    def ready(self) -> bool:
        """Whether artifacts can run there."""
        return all(part.ready or part.optional for part in self.parts)
