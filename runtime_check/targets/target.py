"""The protocol of a target: where artifacts run other than in this process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

from records.manifest import Artifact
from records.parity import Mode
from records.target import TargetRecord
from runtime_check.runtime import Runtime
from runtime_check.targets.session import RunnerSession


class Target(Protocol):
    """A place with runtimes of its own; it is closed by leaving its ``with`` block."""

    @property
    def record(self) -> TargetRecord:
        """What it is."""

    @property
    def emulated(self) -> bool:
        """Whether times measured there mean nothing."""

    def missing(self, artifact: Artifact) -> str | None:
        """Return why an artifact does not run there and what would help, None when it runs."""

    def modes(self, artifact: Artifact) -> tuple[Mode, ...]:
        """Return the modes that ``check`` runs an artifact in, that of its shipping first."""

    def runtime(self, artifact: Artifact, mode: Mode | None = None) -> Runtime:
        """Return the runtime of an artifact there; ``mode`` None takes that of its shipping."""

    def counting(self, artifact_format: str) -> AbstractContextManager[tuple[RunnerSession, Path]]:
        """Yield a fresh runner under the instruction counter, and the file that it writes.

        Args:
            artifact_format: what it will run.

        Raises:
            UnsupportedHereError: nothing counts instructions there, or it does not start.
        """

    def tracing(self, calls: int) -> AbstractContextManager[tuple[RunnerSession, Path]]:
        """Yield a fresh Python runner under the trace of calls, and the file that it writes.

        Args:
            calls: how many indirect calls a site must make between two marks, ≥ 1.

        Raises:
            UnsupportedHereError: nothing traces calls there, or it does not start.
        """

    def __enter__(self) -> Self:
        """Return the target itself."""

    def __exit__(self, *caught: object) -> None:
        """End what runs there."""
