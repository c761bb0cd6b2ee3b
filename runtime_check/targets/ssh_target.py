"""A device behind ssh as a target: the runner goes there through the pipe, no file is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from records.errors import UnsupportedHereError
from records.manifest import Artifact
from records.parity import Mode
from records.target import TargetRecord
from runtime_check.availability import ORT_SATURATES
from runtime_check.machine import ISA_FLAGS, VNNI_FLAGS, X86, parse_cpu_model, parse_flags
from runtime_check.targets import runner
from runtime_check.targets.remote import RemoteRuntime, remote_modes
from runtime_check.targets.session import Answer, RunnerSession
from runtime_check.targets.ssh import Ssh, printable
from runtime_check.targets.ssh_packages import PYTHON, install_packages

#: Artifact format → the distribution that runs it.
_PACKAGES = {
    "onnx": "onnxruntime",
    "ort": "onnxruntime",
    "torchscript-lite": "torch",
    "litert": "ai-edge-litert",
}
#: Reads the runner's source from standard input and becomes it.
_BOOT = (
    "import os; n = {size}; s = bytearray()\n"
    "while len(s) < n:\n"
    "    c = os.read(0, n - len(s))\n"
    "    if not c: raise SystemExit(1)\n"
    "    s += c\n"
    'exec(compile(bytes(s), "runner.py", "exec"), {{"__name__": "__main__"}})'
)
_START = 'PYTHONPATH="$2" exec "$1" -B -c "$3"'
_START_PLAIN = 'exec "$1" -B -c "$2"'
_SYSTEM = """
cat /proc/cpuinfo 2> /dev/null | head -c 60000
printf "\\0"
if [ -r /proc/device-tree/model ]; then tr -d "\\0" < /proc/device-tree/model | head -c 300; fi
printf "\\0"
sed -n "s/^PRETTY_NAME=//p" /etc/os-release 2> /dev/null | head -c 300
"""


class SshTarget:
    """A device with the runner started; see `runtime_check.targets.target`."""

    def __init__(self, url: str, ssh: Ssh, *, python: str | None = None) -> None:
        """Install the pinned packages where they are not there yet, and start the runner.

        Args:
            url: as given.
            ssh: the device.
            python: a program there that has numpy and onnxruntime; nothing is installed then.

        Raises:
            ConnectionLostError: no connection.
            UnsupportedHereError: ssh is not here, or the device lacks what is needed.
        """
        self._ssh = ssh
        self._session = self._start(python)
        try:
            hello = self._session.hello(("onnxruntime",))
        except UnsupportedHereError:
            self._session.close()
            raise
        cpuinfo, board, system = self._system()
        self._versions = _bounded(hello)
        flags = parse_flags(cpuinfo)
        self._precise = hello.machine in X86 and not flags & VNNI_FLAGS
        self._record = TargetRecord(
            name=url,
            kind="device",
            cpu=printable(board or parse_cpu_model(cpuinfo) or "unknown CPU"),
            machine=printable(hello.machine, 32),
            features=tuple(flag for flag in ISA_FLAGS if flag in flags),
            emulator=None,
            versions=self._versions,
            wheels={},
            system={"os": system} if system else {},
        )

    @property
    def record(self) -> TargetRecord:
        """What it is."""
        return self._record

    @property
    def emulated(self) -> bool:
        """False: it is a real device, as far as it says."""
        return False

    def missing(self, artifact: Artifact) -> str | None:
        """Return why an artifact does not run there and what would help, None when it runs."""
        if artifact.format not in runner.FORMATS or artifact.format not in _PACKAGES:
            return f"there is no runner for {Path(artifact.file).suffix} files on devices"
        if self._precise and artifact.format == "ort" and artifact.precision == "int8":
            return ORT_SATURATES
        package = _PACKAGES[artifact.format]
        if package in self._versions:
            return None
        return f"{package} is not on {self._ssh.destination.name}; give --python, one that has it"

    def modes(self, artifact: Artifact) -> tuple[Mode, ...]:
        """Return the modes that ``check`` runs an artifact in, that of its shipping first."""
        modes = remote_modes(artifact)
        onnx = _PACKAGES[artifact.format] == "onnxruntime"
        if self._precise and onnx and artifact.precision == "int8":
            return ("precise", *modes[1:])
        return modes

    def runtime(self, artifact: Artifact, mode: Mode | None = None) -> RemoteRuntime:
        """Return the runtime of an artifact there; ``mode`` None takes that of its shipping."""
        chosen = self.modes(artifact)[0] if mode is None else mode
        return RemoteRuntime(self._session, artifact.format, chosen)

    @contextlib.contextmanager
    def counting(self, artifact_format: str) -> Iterator[tuple[RunnerSession, Path]]:
        """Refuse: nothing counts instructions on a device.

        Args:
            artifact_format: any.

        Raises:
            UnsupportedHereError: always.
        """
        raise UnsupportedHereError("instructions are counted on emulated targets only")
        yield

    @contextlib.contextmanager
    def tracing(self, calls: int) -> Iterator[tuple[RunnerSession, Path]]:
        """Refuse: nothing traces calls on a device.

        Args:
            calls: any.

        Raises:
            UnsupportedHereError: always.
        """
        raise UnsupportedHereError("calls are traced on emulated targets only")
        yield

    def __enter__(self) -> Self:
        """Return the target itself."""
        return self

    def __exit__(self, *caught: object) -> None:
        """End the runner."""
        self._session.close()

    def _start(self, python: str | None) -> RunnerSession:
        source = Path(runner.__file__).read_bytes()
        boot = _BOOT.format(size=len(source))
        if python is None:
            site = install_packages(self._ssh, runner.FORMATS)
            command = self._ssh.command(_START, PYTHON, site, boot)
        else:
            command = self._ssh.command(_START_PLAIN, python, boot)
        return RunnerSession(command, None, name=self._ssh.destination.name, preamble=source)

    def _system(self) -> tuple[str, str, str]:
        said = self._ssh.ask(_SYSTEM, largest=1 << 16).decode(errors="replace")
        cpuinfo, board, system = [*said.split("\0"), "", ""][:3]
        return cpuinfo, board.strip(), printable(system.strip().strip('"'))


def _bounded(hello: Answer) -> dict[str, str]:
    return {printable(k, 40): printable(v, 40) for k, v in list(hello.versions.items())[:16]}
