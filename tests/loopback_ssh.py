"""A real OpenSSH server on this machine, as a device: its own home folder, keys and config."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

#: Set where the server must be there, as in CI: a test that cannot run fails then.
REQUIRED = "EDGEVEIL_REQUIRE_SSHD"
CUT = Path(__file__).with_name("cut_connection.py")


@dataclass
class Device:
    """``home``: where it starts; ``bin``: first on its PATH; ``config``: for ssh's -F."""

    folder: Path
    port: int
    server: subprocess.Popen[bytes]
    home: Path = field(init=False)
    bin: Path = field(init=False)
    config: Path = field(init=False)

    url = "ssh://pi"

    def __post_init__(self) -> None:
        self.home, self.bin = self.folder / "home", self.folder / "bin"
        self.config = self.folder / "ssh_config"

    def left(self) -> list[str]:
        """Return what is in the home folder."""
        return sorted(str(p.relative_to(self.home)) for p in self.home.rglob("*"))

    def program(self, name: str, text: str) -> Path:
        """Put a script of ``sh`` on the device's PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def torch_free_python(self) -> str:
        """Return a Python of the device: this one, but without torch and without edgeveil."""
        hidden = ("torch", "msgspec", "edgeveil", "export", "pipeline", "report", "attack")
        site = self.folder / "hidden"
        site.mkdir(exist_ok=True)
        code = (
            "import importlib.metadata as metadata, sys\n"
            f"hidden, version = {hidden!r}, metadata.version\n"
            "sys.modules.update(dict.fromkeys(hidden))\n"
            "def known(name):\n"
            "    if name in hidden: raise metadata.PackageNotFoundError(name)\n"
            "    return version(name)\n"
            "metadata.version = known\n"
        )
        (site / "sitecustomize.py").write_text(code, encoding="utf-8")
        command = f'PYTHONPATH={shlex.quote(str(site))} exec {shlex.quote(sys.executable)} "$@"'
        return str(self.program("torch-free-python", command))

    def cut_after(self, sent: int) -> str:
        """Return the address of the same device over a connection that breaks after some bytes."""
        command = [sys.executable, str(CUT), str(self.port), str(sent)]
        # ssh takes the first value: what is said of all hosts stays last.
        text = self.config.read_text(encoding="utf-8")
        proxy = f"Host cut{sent}\n  ProxyCommand {shlex.join(command)}\n"
        self.config.write_text(proxy + text, encoding="utf-8")
        return f"ssh://cut{sent}"

    def kill_sessions(self) -> int:
        """Kill the server's processes of open connections and return how many there were."""
        sessions = _children(self.server.pid)
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(sessions)


def find_sshd() -> str:
    """Return the path of sshd; where there is none, skip the test, or fail it in CI."""
    path = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        reason = "openssh-server and openssh-client are not here"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and {reason}")
        pytest.skip(reason)
    return path


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[Device]:
    """Start a server in ``folder`` and yield it as a device."""
    sshd, port = find_sshd(), _free_port()
    (folder / "home").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    if os.geteuid() == 0:
        # sshd run by root wants this folder, which the system makes when it starts the service.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    _write_configs(folder, port)
    command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_for(port, server, folder / "sshd.log")
        yield Device(folder, port, server)
    finally:
        for pid in _children(server.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.terminate()
        server.wait(timeout=10)


def _write_configs(folder: Path, port: int) -> None:
    login = folder / "login.sh"
    login.write_text(
        f"#!/bin/sh\nHOME={shlex.quote(str(folder / 'home'))}\n"
        f"PATH={shlex.quote(str(folder / 'bin'))}:$PATH\nexport HOME PATH OMP_NUM_THREADS=1\n"
        'cd "$HOME" || exit 1\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n',
        encoding="utf-8",
    )
    login.chmod(0o755)
    shutil.copyfile(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n"
        f"PermitRootLogin prohibit-password\nForceCommand {login}\n",
        encoding="utf-8",
    )
    host_key = " ".join((folder / "host_key.pub").read_text(encoding="utf-8").split()[:2])
    (folder / "known_hosts").write_text(f"device {host_key}\n", encoding="utf-8")
    (folder / "ssh_config").write_text(
        f"Host *\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  HostKeyAlias device\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n",
        encoding="utf-8",
    )


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"sshd did not start: {log.read_text(encoding='utf-8')}")


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(path.parent.name))
    return found
