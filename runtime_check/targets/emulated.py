"""An ARM CPU emulated by qemu-user: real ARM builds of the runtimes, real ARM outputs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from records.errors import UnsupportedHereError
from records.manifest import Artifact
from records.parity import Mode
from records.target import TargetRecord
from runtime_check.targets import parts, runner
from runtime_check.targets.cpus import Cpu, cpu_named
from runtime_check.targets.emulator import (
    QEMU,
    Emulator,
    build_call_trace,
    find_emulator,
    install_command,
)
from runtime_check.targets.remote import RemoteRuntime, remote_modes
from runtime_check.targets.session import Answer, RunnerSession
from runtime_check.targets.sysroot import PYTHON

#: ``python`` is ``runner.py``, ``executorch`` is ``executorch_runner.cpp``.
RunnerKind = Literal["python", "executorch"]
#: Artifact format → the optional part of a target that runs it, and what that part is called.
_NEEDS = {
    "torchscript-lite": ("lite", "torch"),
    "executorch": ("executorch", "ExecuTorch"),
    "litert": ("litert", "LiteRT"),
}
_CORE = frozenset({"onnx", "ort"})


@dataclass(frozen=True)
class Guest:
    """How the runners are started under the emulator."""

    cpu: Cpu
    root: Path
    emulator: Emulator

    def runners(self) -> tuple[RunnerKind, ...]:
        """Return the runners that this target has."""
        has = parts.executorch_part().facts(self.root) is not None
        return ("python", "executorch") if has else ("python",)

    def command(
        self,
        kind: RunnerKind = "python",
        counts: Path | None = None,
        plugin: str | None = None,
    ) -> list[str]:
        """Return a runner's command; ``counts`` loads the instruction counter, which writes there.

        Args:
            kind: which runner.
            counts: a new file.
            plugin: another plugin of qemu and its arguments, as ``-plugin`` takes them.
        """
        prefix = parts.cpu_part(self.cpu, self.root).folder(self.root)
        # The seed is of the random bytes that the guest gets from its kernel when it starts.
        command = [self.emulator.path, "-cpu", self.cpu.name, "-seed", "1", "-L", str(prefix)]
        if counts is not None:
            counter = parts.counter_part().folder(self.root) / "counter.so"
            command += ["-plugin", f"{counter},out={counts}"]
        if plugin is not None:
            command += ["-plugin", plugin]
        if kind == "executorch":
            return [*command, str(parts.executorch_part().folder(self.root) / parts.RUNNER)]
        return [*command, str(prefix / PYTHON), str(Path(runner.__file__).resolve())]

    def environment(self, *, bytecode: bool = False) -> dict[str, str]:
        """Return a runner's whole environment: the same everywhere, so counts repeat.

        Args:
            bytecode: let Python keep compiled modules in the cache; while preparing only.
        """
        sites = [parts.wheels_part().folder(self.root) / "site"]
        for part in (parts.lite_part(), parts.litert_part()):
            if part.facts(self.root) is not None:
                sites.append(part.folder(self.root) / "site")
        variables = {
            "PYTHONPATH": ":".join(map(str, sites)),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            # Its thread would take memory at times of its own, and counts would not repeat.
            "ORT_DISABLE_TELEMETRY": "1",
            "LANG": "C.UTF-8",
        }
        return variables if bytecode else variables | {"PYTHONDONTWRITEBYTECODE": "1"}

    def session(
        self,
        kind: RunnerKind = "python",
        *,
        counts: Path | None = None,
        plugin: str | None = None,
        bytecode: bool = False,
    ) -> RunnerSession:
        """Start a runner.

        Raises:
            UnsupportedHereError: the emulator cannot be started.
        """
        command = self.command(kind, counts, plugin)
        return RunnerSession(command, self.environment(bytecode=bytecode), name=self.cpu.name)


class EmulatedTarget:
    """A prepared emulated CPU with its runners started; see `runtime_check.targets.target`."""

    def __init__(self, name: str, root: Path) -> None:
        """Start the runners.

        Args:
            name: of the CPU.
            root: the cache of targets.

        Raises:
            InputError: there is no such CPU.
            UnsupportedHereError: a part is missing here, or a runner does not start.
        """
        self._guest = Guest(cpu_named(name), root, _require_ready(cpu_named(name), root))
        # What has started is ended again where another does not start.
        with contextlib.ExitStack() as stack:
            self._sessions: dict[RunnerKind, RunnerSession] = {}
            for kind in self._guest.runners():
                session = stack.enter_context(contextlib.closing(self._guest.session(kind)))
                self._sessions[kind] = session
            hellos = [session.hello() for session in self._sessions.values()]
            self._ending = stack.pop_all()
        made = parts.parts_of(self._guest.cpu, root)
        optional = {part.name: part.facts(root) for part in made if part.optional}
        self._optional = {name: facts for name, facts in optional.items() if facts is not None}
        self._record = self._recorded(hellos)

    def _recorded(self, hellos: Sequence[Answer]) -> TargetRecord:
        cpu, root = self._guest.cpu, self._guest.root
        wheels = dict(parts.wheels_part().facts(root) or {})
        for facts in self._optional.values():
            wheels |= facts
        return TargetRecord(
            name=cpu.name,
            kind="emulated",
            cpu=f"{cpu.name}, as in a {cpu.board}",
            machine=hellos[0].machine,
            features=cpu.features,
            emulator=self._guest.emulator.version,
            versions={name: said for hello in hellos for name, said in hello.versions.items()},
            wheels=wheels,
            system=parts.sysroot_part().facts(root) or {},
        )

    @property
    def record(self) -> TargetRecord:
        """What it is."""
        return self._record

    @property
    def emulated(self) -> bool:
        """True: no time measured here is a device's time."""
        return True

    def missing(self, artifact: Artifact) -> str | None:
        """Return why an artifact does not run here and what would help, None when it runs."""
        if artifact.format in _CORE:
            return None
        if artifact.format not in _NEEDS:
            return f"there is no runner for {Path(artifact.file).suffix} files on emulated targets"
        part, spoken = _NEEDS[artifact.format]
        if part in self._optional:
            return None
        name = self._record.name
        return f"{spoken} is not on {name}; run: edgeveil target prepare {name} --with {part}"

    def modes(self, artifact: Artifact) -> tuple[Mode, ...]:
        """Return the modes that ``check`` runs an artifact in, that of its shipping first."""
        return remote_modes(artifact)

    def runtime(self, artifact: Artifact, mode: Mode | None = None) -> RemoteRuntime:
        """Return the runtime of an artifact here; ``mode`` None takes that of its shipping."""
        chosen = remote_modes(artifact)[0] if mode is None else mode
        session = self._sessions[_runner_of(artifact.format)]
        return RemoteRuntime(session, artifact.format, chosen)

    @contextlib.contextmanager
    def counting(self, artifact_format: str) -> Iterator[tuple[RunnerSession, Path]]:
        """Yield a fresh runner under the instruction counter, and the file that it writes.

        Args:
            artifact_format: what it will run.

        Raises:
            UnsupportedHereError: it does not start.
        """
        with tempfile.TemporaryDirectory(prefix="edgeveil-counts-") as folder:
            counts = Path(folder) / "counts.txt"
            fresh = self._guest.session(_runner_of(artifact_format), counts=counts)
            with contextlib.closing(fresh) as session:
                session.hello()
                yield session, counts

    @contextlib.contextmanager
    def tracing(self, calls: int) -> Iterator[tuple[RunnerSession, Path]]:
        """Yield a fresh Python runner under ``call_trace.c``, and the file that it writes.

        The plugin is compiled each time: that takes less than a start of the runner.

        Args:
            calls: how many indirect calls a site must make between two marks, ≥ 1.

        Raises:
            UnsupportedHereError: there is no C compiler, or the runner does not start.
        """
        with tempfile.TemporaryDirectory(prefix="edgeveil-calls-") as folder:
            library, found = Path(folder) / "call_trace.so", Path(folder) / "calls.txt"
            build_call_trace(library)
            fresh = self._guest.session(plugin=f"{library},out={found},calls={calls}")
            with contextlib.closing(fresh) as session:
                session.hello()
                yield session, found

    def __enter__(self) -> Self:
        """Return the target itself."""
        return self

    def __exit__(self, *caught: object) -> None:
        """End the runners."""
        self._ending.close()


def _runner_of(artifact_format: str) -> RunnerKind:
    return "executorch" if artifact_format == "executorch" else "python"


def _require_ready(cpu: Cpu, root: Path) -> Emulator:
    emulator = find_emulator()
    if emulator is None:
        raise UnsupportedHereError(
            f"{QEMU} is not here; as root: {' '.join(install_command((QEMU,)))}"
        )
    lacking = [p.name for p in parts.parts_of(cpu, root) if not p.optional and not p.facts(root)]
    if lacking:
        raise UnsupportedHereError(
            f"target {cpu.name} is not prepared in {root} (missing: {', '.join(lacking)}); run: "
            f"edgeveil target prepare {cpu.name}"
        )
    return emulator
