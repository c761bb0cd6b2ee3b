"""A target that is this machine: the runner in a process of its own, and no emulator."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from records.manifest import Artifact
from records.parity import Mode
from records.target import TargetRecord
from runtime_check.ort import ort_mode
from runtime_check.runtime import Runtime
from runtime_check.targets import runner
from runtime_check.targets.counters import CLASSES
from runtime_check.targets.remote import RemoteRuntime, remote_modes
from runtime_check.targets.session import RunnerSession

COMMAND = (sys.executable, str(Path(runner.__file__)))


def session(*command: str, name: str = "here") -> RunnerSession:
    """Start the runner, or another command in its place."""
    return RunnerSession(command or COMMAND, os.environ | {"OMP_NUM_THREADS": "1"}, name=name)


def marks(*totals: int) -> str:
    """Return a counter file in which only ``all`` counts: the marks 0, 1, … at these totals."""
    rest = " ".join(f"{name}=0" for name in CLASSES[1:])
    return "".join(f"mark {k} all={total} {rest}\n" for k, total in enumerate(totals))


class Here:
    """See `runtime_check.targets.target.Target`; ``lacks``: formats that it does not run.

    ``traced``: what the trace of calls will have written.
    """

    emulated = True

    def __init__(
        self, lacks: tuple[str, ...] = (), counted: tuple[str, ...] = (), traced: str = ""
    ) -> None:
        self.session = session()
        self._lacks = lacks
        #: What the instruction counter of each process in turn will have written.
        self._counted = list(counted)
        self._traced = traced
        hello = self.session.hello()
        self.record = TargetRecord(
            name="here",
            kind="emulated",
            cpu="this machine",
            machine=hello.machine,
            features=(),
            emulator=None,
            versions=hello.versions,
            wheels={},
            system={},
        )

    def missing(self, artifact: Artifact) -> str | None:
        runs = artifact.format in runner.FORMATS and artifact.format not in self._lacks
        return None if runs else f"no {artifact.format} here"

    def modes(self, artifact: Artifact) -> tuple[Mode, ...]:
        first, *others = remote_modes(artifact)
        if artifact.format == "onnx" and artifact.precision == "int8":
            first = ort_mode().mode
        return (first, *others)

    def runtime(self, artifact: Artifact, mode: Mode | None = None) -> Runtime:
        return RemoteRuntime(self.session, artifact.format, mode or self.modes(artifact)[0])

    def counting(self, artifact_format: str) -> AbstractContextManager[tuple[RunnerSession, Path]]:
        return _fresh(self._counted.pop(0))

    def tracing(self, calls: int) -> AbstractContextManager[tuple[RunnerSession, Path]]:
        return _fresh(self._traced)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *caught: object) -> None:
        self.session.close()


@contextlib.contextmanager
def _fresh(written: str) -> Iterator[tuple[RunnerSession, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.txt"
        path.write_text(written, encoding="ascii")
        with contextlib.closing(session()) as one:
            yield one, path
