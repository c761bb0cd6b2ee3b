"""An ARM CPU emulated by qemu-user: real ARM builds of the runtimes, real ARM outputs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from records.errors import UnsupportedHereError
from records.manifest import Artifact
from records.parity import Mode
from records.target import TargetRecord
from runtime_check.targets import parts, runner
from runtime_check.targets.cpus import Cpu, cpu_named
from runtime_check.targets.emulator import QEMU, Emulator, find_emulator, install_command
from runtime_check.targets.remote import RemoteRuntime, remote_modes
from runtime_check.targets.session import RunnerSession
from runtime_check.targets.sysroot import PYTHON


@dataclass(frozen=True)
class Guest:
    """How the runner is started under the emulator."""

    cpu: Cpu
    root: Path
    emulator: Emulator

    def command(self, counts: Path | None = None) -> list[str]:
        """Return the command; ``counts`` loads the instruction counter, which writes there."""
        prefix = parts.cpu_part(self.cpu, self.root).folder(self.root)
        # The seed is of the random bytes that the guest gets from its kernel when it starts.
        command = [self.emulator.path, "-cpu", self.cpu.name, "-seed", "1", "-L", str(prefix)]
        if counts is not None:
            counter = parts.counter_part().folder(self.root) / "counter.so"
            command += ["-plugin", f"{counter},out={counts}"]
        return [*command, str(prefix / PYTHON), str(Path(runner.__file__).resolve())]

    def environment(self, *, bytecode: bool = False) -> dict[str, str]:
        """Return the runner's whole environment: the same everywhere, so counts repeat.

        Args:
            bytecode: let Python keep compiled modules in the cache; while preparing only.
        """
        sites = [parts.wheels_part().folder(self.root) / "site"]
        if parts.lite_part().facts(self.root) is not None:
            sites.append(parts.lite_part().folder(self.root) / "site")
        variables = {
            "PYTHONPATH": ":".join(map(str, sites)),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "LANG": "C.UTF-8",
        }
        return variables if bytecode else variables | {"PYTHONDONTWRITEBYTECODE": "1"}

    def session(self, *, counts: Path | None = None, bytecode: bool = False) -> RunnerSession:
        """Start the runner.

        Raises:
            UnsupportedHereError: the emulator cannot be started.
        """
        return RunnerSession(
            self.command(counts), self.environment(bytecode=bytecode), name=self.cpu.name
        )


class EmulatedTarget:
    """A prepared emulated CPU with its runner started; see `runtime_check.targets.target`."""

    def __init__(self, name: str, root: Path) -> None:
        """Start the runner.

        Args:
            name: of the CPU.
            root: the cache of targets.

        Raises:
            InputError: there is no such CPU.
            UnsupportedHereError: a part is missing here, or the runner does not start.
        """
        self._guest = Guest(cpu_named(name), root, _require_ready(cpu_named(name), root))
        self._session = self._guest.session()
        try:
            hello = self._session.hello()
        except UnsupportedHereError:
            self._session.close()
            raise
        cpu, wheels = self._guest.cpu, dict(parts.wheels_part().facts(root) or {})
        self._lite = parts.lite_part().facts(root)
        self._record = TargetRecord(
            name=name,
            kind="emulated",
            cpu=f"{cpu.name}, as in a {cpu.board}",
            machine=hello.machine,
            features=cpu.features,
            emulator=self._guest.emulator.version,
            versions=hello.versions,
            wheels=wheels | (self._lite or {}),
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
        if artifact.format == "torchscript-lite":
            if self._lite is None:
                name = self._record.name
                return f"torch is not on {name}; run: edgeveil target prepare {name} --with lite"
            return None
        if artifact.format != "onnx":
            return f"the runner on emulated targets has no runtime for {artifact.format}"
        return None

    def modes(self, artifact: Artifact) -> tuple[Mode, ...]:
        """Return the modes that ``check`` runs an artifact in, that of its shipping first."""
        return remote_modes(artifact)

    def runtime(self, artifact: Artifact, mode: Mode | None = None) -> RemoteRuntime:
        """Return the runtime of an artifact here; ``mode`` None takes that of its shipping."""
        chosen = remote_modes(artifact)[0] if mode is None else mode
        return RemoteRuntime(self._session, artifact.format, chosen)

    @contextlib.contextmanager
    def counting(self) -> Iterator[tuple[RunnerSession, Path]]:
        """Yield a fresh runner under the instruction counter, and the file that it writes.

        Raises:
            UnsupportedHereError: it does not start.
        """
        with tempfile.TemporaryDirectory(prefix="edgeveil-counts-") as folder:
            counts = Path(folder) / "counts.txt"
            session = self._guest.session(counts=counts)
            try:
                session.hello()
                yield session, counts
            finally:
                session.close()

    def __enter__(self) -> Self:
        """Return the target itself."""
        return self

    def __exit__(self, *caught: object) -> None:
        """End the runner."""
        self._session.close()


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
