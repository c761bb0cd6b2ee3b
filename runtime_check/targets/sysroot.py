"""An arm64 Debian sysroot with Python 3.11, from the host's own package sources.

apt works in a state folder of its own, so the host's packages and lists stay as they are and no
root is needed; it verifies signatures as it does for the host.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from records.errors import UnsupportedHereError

PACKAGES = (
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libgomp1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "libstdc++6",
    "libuuid1",
    "python3.11-minimal",
    "zlib1g",
)
PYTHON = "usr/bin/python3.11"
TOOLS = ("apt-get", "dpkg-deb")
TIMEOUT_SECONDS = 600

Step = Callable[[str], None]


def build_sysroot(folder: Path, work: Path, step: Step) -> None:
    """Unpack the packages into ``folder``.

    Args:
        folder: the new root.
        work: a folder for apt's state and the packages; the caller removes it.
        step: told what is being done.

    Raises:
        UnsupportedHereError: apt-get or dpkg-deb is missing, or the sources have no arm64
            packages of Python 3.11.
    """
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise UnsupportedHereError(
                f"{tool} is not here: the arm64 sysroot comes from Debian's package sources, so "
                "emulated targets need Debian 12 or a container of it"
            )
    options = _private_apt(work)
    debs = work / "debs"
    debs.mkdir()
    step("package lists of arm64")
    # A source without arm64 makes this fail in part; what counts is whether the packages come.
    update = _run(["apt-get", *options, "-qq", "update"], debs)
    step("arm64 packages")
    download = _run(["apt-get", *options, "-qq", "download", *PACKAGES], debs)
    if download.returncode != 0:
        reasons = [*_errors(update.stderr), *_errors(download.stderr)]
        reason = reasons[0] if reasons else f"exit code {download.returncode}"
        raise UnsupportedHereError(
            f"this machine's package sources gave no arm64 sysroot with Python 3.11 ({reason}); "
            "Debian 12 sources and the network are needed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for deb in sorted(debs.glob("*.deb")):
        step(deb.name)
        done = _run(["dpkg-deb", "--extract", str(deb), str(folder)], debs)
        if done.returncode != 0:
            raise UnsupportedHereError(f"dpkg-deb cannot unpack {deb.name}: {done.stderr.strip()}")


def package_versions(work: Path) -> dict[str, str]:
    """Return package → version of what `build_sysroot` downloaded into ``work``."""
    names = (deb.stem.split("_") for deb in sorted((work / "debs").glob("*.deb")))
    return {name: version.replace("%3a", ":") for name, version, *_ in names}


def _private_apt(work: Path) -> list[str]:
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": str(work),
        "Dir::State::lists": str(work / "lists"),
        "Dir::State::status": str(work / "status"),
        "Dir::Cache": str(work / "cache"),
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedHereError(
            f"{command[0]} did not end within {TIMEOUT_SECONDS} s; is the network there?"
        ) from error


def _errors(text: str) -> list[str]:
    return [line[3:] for line in text.splitlines() if line.startswith("E: ")]
