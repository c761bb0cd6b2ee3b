"""qemu-user and the compilers: where they are, what they are, and what is built with them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from records.errors import UnsupportedHereError

QEMU = "qemu-aarch64"
COMPILER = "cc"
CROSS_COMPILER = "aarch64-linux-gnu-g++"
SOURCE = Path(__file__).with_name("counter.c")
CALL_TRACE_SOURCE = Path(__file__).with_name("call_trace.c")
RUNNER_SOURCE = Path(__file__).with_name("executorch_runner.cpp")
#: Program → the Debian packages that bring it.
SYSTEM_PACKAGES = {
    QEMU: ("qemu-user",),
    COMPILER: ("gcc", "libc6-dev"),
    CROSS_COMPILER: ("g++-aarch64-linux-gnu",),
}
#: As ExecuTorch's own CMake package says; its kernels register themselves when they are loaded, so
#: every library is linked though the runner calls none of most.
RUNNER_LIBRARIES = (
    "executorch",
    "executorch_backend_xnnpack",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_threadpool",
)
RUNNER_FLAGS = (
    *("-std=c++17", "-O2", "-Wall", "-Wextra"),
    *("-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_USE_THREADPOOL"),
    *("-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN/lib"),
)


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


def find_cross_compiler() -> str | None:
    """Return the path of the C++ compiler for aarch64, None where there is none."""
    return shutil.which(CROSS_COMPILER)


def missing_programs(programs: Iterable[str] = SYSTEM_PACKAGES) -> tuple[str, ...]:
    """Return those of ``programs``, names in `SYSTEM_PACKAGES`, that are not here."""
    find: dict[str, Callable[[], object]] = {
        QEMU: find_emulator,
        COMPILER: find_compiler,
        CROSS_COMPILER: find_cross_compiler,
    }
    return tuple(name for name in programs if find[name]() is None)


def install_command(programs: Iterable[str]) -> list[str]:
    """Return the apt-get command, to be run as root, that brings programs."""
    packages = [package for name in programs for package in SYSTEM_PACKAGES[name]]
    return ["apt-get", "install", "--yes", "--no-install-recommends", *packages]


def build_counter(target: Path) -> None:
    """Compile ``counter.c`` into a plugin for qemu.

    Raises:
        UnsupportedHereError: there is no C compiler, or it refused.
    """
    _build_plugin(SOURCE, target, "instruction counter")


def build_call_trace(target: Path) -> None:
    """Compile ``call_trace.c`` into a plugin for qemu.

    Raises:
        UnsupportedHereError: there is no C compiler, or it refused.
    """
    _build_plugin(CALL_TRACE_SOURCE, target, "trace of calls")


def build_executorch_runner(package: Path, version: str, target: Path) -> None:
    """Compile ``executorch_runner.cpp`` against the headers and libraries of an aarch64 wheel.

    Args:
        package: the wheel's folder ``executorch``.
        version: of the wheel, which the runner tells.
        target: the program; it looks for the libraries in the folder ``lib`` beside it.

    Raises:
        UnsupportedHereError: there is no cross compiler, or it refused.
    """
    compiler = find_cross_compiler()
    if compiler is None:
        raise _no_compiler(CROSS_COMPILER, "C++ compiler for aarch64 for the ExecuTorch runner")
    include = package / "include"
    # Of system headers the warnings are not ours.
    headers = (include, include / "executorch" / "runtime" / "core" / "portable_type" / "c10")
    command = [compiler, *RUNNER_FLAGS, f'-DEXECUTORCH_VERSION="{version}"']
    command += [word for folder in headers for word in ("-isystem", str(folder))]
    command += [str(RUNNER_SOURCE), "-o", str(target), f"-L{package / 'lib'}"]
    _compile([*command, *(f"-l{name}" for name in RUNNER_LIBRARIES)], "the ExecuTorch runner")


def _build_plugin(source: Path, target: Path, what: str) -> None:
    compiler = find_compiler()
    if compiler is None:
        raise _no_compiler(COMPILER, f"C compiler for the {what}")
    command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    _compile([*command, str(source), "-o", str(target)], f"the {what}")


def _no_compiler(program: str, what: str) -> UnsupportedHereError:
    return UnsupportedHereError(
        f"there is no {what}; as root: {' '.join(install_command((program,)))}"
    )


def _compile(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        said = next((line for line in lines if "error" in line), lines[0])
        raise UnsupportedHereError(f"{command[0]} cannot build {what}: {said}")
