"""The record of one finished stage of ``edgeveil run``, and of the whole run."""

from __future__ import annotations

import msgspec

from records.manifest import Sha256


class StageRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stage that ended: written last, so its presence says that the outputs are whole.

    ``key``: SHA-256 over the stage's name, the recipe sections it reads, the hashes of the
    files it reads and the versions of the libraries that compute. ``outputs``: path below the
    run folder → SHA-256.
    """

    stage: str
    key: Sha256
    outputs: dict[str, Sha256]
    gates_passed: bool
    started_at: str
    seconds: float


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run did: its stages in order, which of them were skipped as unchanged."""

    run: str
    stages: tuple[StageRecord, ...]
    skipped: tuple[str, ...]
    gates_passed: bool
    report: str
