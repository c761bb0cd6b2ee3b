"""The aarch64 wheels of the runtimes: pinned by version and SHA-256, fetched by pip, unpacked."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from records.errors import BundleError, UnsupportedHereError
from records.hashing import sha256_file

PYTHON = "3.11"
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
#: Of torch, what only compilers and torch's own tests read.
LEFT_OUT = ("torch/include/", "torch/test/", "torch/share/")
TIMEOUT_SECONDS = 900


class WheelError(BundleError):
    """A wheel is not the one that is pinned here: it must not be used."""


@dataclass(frozen=True)
class Wheel:
    """One wheel file on PyPI and its SHA-256."""

    distribution: str
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The line of a requirements file that allows this very file only."""
        return f"{self.distribution}=={self.version} --hash=sha256:{self.sha256}"


RUNTIME_WHEELS = (
    Wheel(
        "numpy",
        "2.4.6",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
        "0ab0a9c4ffb1a6d95ef519fe4247dba8eb6b18ad93999f76b7f657039acabd47",
    ),
    Wheel(
        "onnxruntime",
        "1.32.0",
        "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_aarch64.whl",
        "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
    ),
)
#: torch 2.9.1: the last whose aarch64 wheel on PyPI is for the CPU alone (104 MB; 2.14.1 has 454
#: and wants CUDA packages). Its Lite interpreter runs the programs that 2.14.1 writes.
LITE_WHEELS = (
    Wheel(
        "torch",
        "2.9.1",
        "torch-2.9.1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "62b3fd888277946918cba4478cf849303da5359f0fb4e3bfb86b0533ba2eaf8d",
    ),
    Wheel(
        "typing-extensions",
        "4.15.0",
        "typing_extensions-4.15.0-py3-none-any.whl",
        "f0fa19c6845758ab08074a0cfa8b7aecb71c999ca73d62883bc25cc018c4e548",
    ),
)
#: Its C++ libraries and headers are used, its Python packages are not: they need torch.
EXECUTORCH_WHEELS = (
    Wheel(
        "executorch",
        "1.5.1",
        "executorch-1.5.1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a",
    ),
)
#: Its interpreter imports numpy alone.
LITERT_WHEELS = (
    Wheel(
        "ai-edge-litert",
        "2.3.0",
        "ai_edge_litert-2.3.0-cp311-cp311-manylinux_2_27_aarch64.whl",
        "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae",
    ),
)


def fetch(wheels: Iterable[Wheel], folder: Path) -> None:
    """Download wheels with pip in its mode that refuses any file of another hash.

    Args:
        wheels: what to fetch.
        folder: where to; it gets a file ``requirements.txt`` too.

    Raises:
        UnsupportedHereError: pip is missing, or the package index cannot be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{w.requirement}\n" for w in wheels), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--python-version", PYTHON]
    command += ["--implementation", "cp", "--dest", str(folder), "--requirement", str(requirements)]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedHereError(
            f"the aarch64 wheels did not arrive within {TIMEOUT_SECONDS} s; try again, pip keeps "
            "what it has"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UnsupportedHereError(f"pip could not fetch the aarch64 wheels: {last}")


def unpack(wheels: Iterable[Wheel], source: Path, site: Path) -> None:
    """Verify wheels by their SHA-256 and unpack them; none is run.

    Args:
        wheels: what to unpack.
        source: the folder with their files.
        site: the folder that a Python finds packages in.

    Raises:
        WheelError: a file is missing or is another one than the pinned.
    """
    site.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        path = source / wheel.file
        if not path.is_file():
            raise WheelError(f"{wheel.file} is not in {source}; prepare the target again")
        found = sha256_file(path)
        if found != wheel.sha256:
            raise WheelError(
                f"{path} has SHA-256 {found}, not the pinned {wheel.sha256}; it is not unpacked"
            )
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.namelist() if not m.startswith(LEFT_OUT)]
            # zipfile drops absolute paths and ".." from the names of members.
            archive.extractall(site, members)
