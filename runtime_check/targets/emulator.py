"""qemu-user and the C compiler: where they are, what they are, and the counter built with them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from records.errors import UnsupportedHereError

QEMU = "qemu-aarch64"
SOURCE = Path(__file__).with_name("counter.c")
#: Program → the Debian packages that bring it.
SYSTEM_PACKAGES = {QEMU: ("qemu-user",), "cc": ("gcc", "libc6-dev")}


@dataclass(frozen=True)
class Emulator:
    """An installed qemu-user: its path and the version that it prints."""

    path: str
    version: str


def find_emulator() -> Emulator | None:
    """Return the qemu-aarch64 of this machine, None where there is none."""
    path = shutil.which(QEMU)
    if path is None:
        return None
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return Emulator(path, lines[0].strip()) if done.returncode == 0 and lines else None


def find_compiler() -> str | None:
    """Return the path of the host's C compiler, None where there is none."""
    return shutil.which("cc") or shutil.which("gcc")


def missing_programs() -> tuple[str, ...]:
    """Return those of `SYSTEM_PACKAGES` that are not here."""
    here = {QEMU: find_emulator() is not None, "cc": find_compiler() is not None}
    return tuple(name for name in SYSTEM_PACKAGES if not here[name])


def install_command(programs: tuple[str, ...]) -> list[str]:
    """Return the apt-get command, to be run as root, that brings programs."""
    packages = [package for name in programs for package in SYSTEM_PACKAGES[name]]
    return ["apt-get", "install", "--yes", "--no-install-recommends", *packages]


def build_counter(target: Path) -> None:
    """Compile ``counter.c`` into a plugin for qemu.

    Raises:
        UnsupportedHereError: there is no C compiler, or it refused.
    """
    compiler = find_compiler()
    if compiler is None:
        raise UnsupportedHereError(
            "there is no C compiler for the instruction counter; as root: "
            + " ".join(install_command(("cc",)))
        )
    command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    done = subprocess.run(
        [*command, str(SOURCE), "-o", str(target)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnsupportedHereError(f"{compiler} cannot build the instruction counter: {lines[0]}")
