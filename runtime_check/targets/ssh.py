"""The system's own ssh: the user's config, keys and agent; no password ever passes through here."""

from __future__ import annotations

import re
import select
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from records.errors import EdgeveilError, InputError, UnsupportedHereError

SCHEME = "ssh://"
#: ssh's exit code for its own failures: no connection, no permission, a connection that broke.
CONNECTION_FAILED = 255
#: A remote command that says nothing for so long is given up.
IDLE_SECONDS = 1800.0
_CHUNK = 1 << 16
_MAX_LINE = 4096
_URL = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
#: BatchMode: ssh asks nothing. The rest: nothing of this machine is lent to the device, and a dead
#: connection is noticed within a minute.
_OPTIONS = (
    "BatchMode=yes",
    "ClearAllForwardings=yes",
    "ConnectTimeout=20",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ServerAliveCountMax=4",
    "ServerAliveInterval=15",
)


class DeviceError(EdgeveilError):
    """A command failed on a device, or it sent what it should not."""


class ConnectionLostError(DeviceError):
    """A device could not be reached, or the connection broke off."""


@dataclass(frozen=True)
class Destination:
    """Where ssh goes; what is None is left to the user's ssh config."""

    user: str | None
    host: str
    port: int | None

    @property
    def name(self) -> str:
        """As ssh takes it, without the port."""
        return self.host if self.user is None else f"{self.user}@{self.host}"


def is_ssh(name: str) -> bool:
    """Return whether a target's name is that of a device behind ssh."""
    return name.startswith(SCHEME)


def parse_destination(url: str) -> Destination:
    """Return where ``ssh://[user@]host[:port]`` leads.

    Raises:
        InputError: it is no such address; a password or a path is refused too.
    """
    match = _URL.fullmatch(url)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 1 <= port <= 65535):
        raise InputError(
            f"{url!r} is not ssh://[user@]host[:port]; keys, jumps and aliases belong into your "
            "ssh config"
        )
    return Destination(match["user"], match["host"].strip("[]"), port)


def ssh_missing() -> str | None:
    """Return why devices cannot be reached from here and what would help, None when ssh is here."""
    if shutil.which("ssh") is not None:
        return None
    return "ssh is not here; as root: apt-get install --yes --no-install-recommends openssh-client"


def require_ssh() -> None:
    """Refuse to go on where there is no ssh.

    Raises:
        UnsupportedHereError: ssh is not installed here; the message says what to run.
    """
    missing = ssh_missing()
    if missing is not None:
        raise UnsupportedHereError(missing)


def printable(text: str, longest: int = 300) -> str:
    """Return a device's text fit for a terminal: no control characters, not too long."""
    return "".join(c if c.isprintable() else "?" for c in text[:longest])


@dataclass(frozen=True)
class Ssh:
    """How to run commands on one device.

    ``config``: an ssh config file in place of the user's own, None for that.
    """

    destination: Destination
    config: Path | None = None

    def command(self, script: str, *arguments: str) -> list[str]:
        """Return the command that runs a script of ``sh`` there, in the home folder.

        Args:
            script: without quotation marks ' and backslashes, which some login shells change.
            arguments: its $1, $2, …

        Raises:
            UnsupportedHereError: ssh is not installed here.
        """
        require_ssh()
        command = ["ssh", "-T"]
        for option in _OPTIONS:
            command += ["-o", option]
        if self.config is not None:
            command += ["-F", str(self.config)]
        if self.destination.port is not None:
            command += ["-p", str(self.destination.port)]
        remote = shlex.join(["sh", "-c", script, "sh", *arguments])
        return [*command, "--", self.destination.name, remote]

    def reach(self) -> None:
        """Connect once and do nothing there: a wrong name shows before the long work here.

        Raises:
            ConnectionLostError: no connection.
            DeviceError: it runs no shell.
            UnsupportedHereError: ssh is not installed here.
        """
        self.ask("true")

    def ask(self, script: str, *arguments: str, data: bytes = b"", largest: int = 4096) -> bytes:
        """Run a script with ``data`` on its standard input and return what it prints.

        Args:
            script: see `command`.
            arguments: its $1, $2, …
            data: for its standard input.
            largest: how many bytes it may print.

        Raises:
            DeviceError: no connection, another exit code than 0, or too many bytes.
            UnsupportedHereError: ssh is not installed here.
        """
        with Running(self, script, *arguments) as running:
            running.send(data)
            running.end_input()
            output = running.read(largest)
            code = running.wait()
        if code != 0:
            raise DeviceError(f"{self.destination.name}: {running.said or f'exit code {code}'}")
        return output


class Running:
    """A script that runs on a device; leave its ``with`` block to end it."""

    def __init__(self, ssh: Ssh, script: str, *arguments: str) -> None:
        """Start it; see `Ssh.command`."""
        command = ssh.command(script, *arguments)
        self._name = ssh.destination.name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
        )
        self._input = cast("IO[bytes]", self._process.stdin)
        self._output = cast("IO[bytes]", self._process.stdout)
        #: The last line that it wrote to standard error, known after `wait`.
        self.said = ""

    def __enter__(self) -> Running:
        """Return it."""
        return self

    def __exit__(self, *caught: object) -> None:
        """End ssh; what it started on the device may go on there."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._input, self._output, self._stderr):
            stream.close()

    def send(self, data: bytes | memoryview) -> None:
        """Write to its standard input.

        Raises:
            DeviceError: it took no more.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._input.write(view[:_CHUNK]) :]
        except BrokenPipeError:
            code = self.wait()
            raise DeviceError(
                f"{self._name}: {self.said or f'took no more data (exit code {code})'}"
            ) from None

    def end_input(self) -> None:
        """Let its standard input end."""
        self._input.close()

    def read(self, largest: int) -> bytes:
        """Return all that it prints.

        Raises:
            DeviceError: it is more than ``largest`` bytes, or nothing came for half an hour.
        """
        found = bytearray()
        while piece := self._piece():
            found += piece
            if len(found) > largest:
                raise DeviceError(f"{self._name} sent more than {largest} bytes; it is not read")
        return bytes(found)

    def lines(self) -> Iterator[str]:
        """Yield what it prints line by line, printable, each at most 300 characters.

        Raises:
            DeviceError: a line is endless, or nothing came for half an hour.
        """
        rest = b""
        while piece := self._piece():
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > _MAX_LINE:
                raise DeviceError(f"{self._name} sent a line without end")
            yield from (printable(line.decode(errors="replace")) for line in whole)

    def wait(self) -> int:
        """Return its exit code.

        Raises:
            ConnectionLostError: ssh itself failed: no connection, or it broke off.
        """
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read(1 << 16).decode(errors="replace").strip().splitlines()
        self.said = printable(lines[-1].strip()) if lines else ""
        if code == CONNECTION_FAILED:
            raise ConnectionLostError(
                f"no connection to {self._name}, or it broke off"
                f"{f' ({self.said})' if self.said else ''}; run the same command again to go on"
            )
        return code

    def _piece(self) -> bytes:
        ready, _, _ = select.select([self._output], [], [], IDLE_SECONDS)
        if not ready:
            raise DeviceError(f"{self._name} said nothing for {IDLE_SECONDS:g} s")
        return self._output.read(_CHUNK)
