"""The parts of an emulated target, what decides each of them, and how each is built."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from records.hashing import sha256_bytes, sha256_record
from runtime_check.targets import sysroot, wheels
from runtime_check.targets.cache import part_facts, part_folder
from runtime_check.targets.cpus import Cpu
from runtime_check.targets.emulator import (
    COMPILER,
    CROSS_COMPILER,
    RUNNER_FLAGS,
    RUNNER_LIBRARIES,
    RUNNER_SOURCE,
    SOURCE,
    build_counter,
    build_executorch_runner,
)

#: Raise when a part is built in another way from the same ingredients.
_RECIPE = 1
#: The program of `executorch_part`.
RUNNER = "runner"

Step = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One folder of the cache.

    Attributes:
        name: of the part.
        key: SHA-256 of all that decides its content.
        optional: the target works without it, but not every artifact runs.
        build: fills an empty folder and returns facts about it.
        compiler: the program, of `emulator.SYSTEM_PACKAGES`, that building takes; None for none.
    """

    name: str
    key: str
    optional: bool
    build: Callable[[Path, Step], dict[str, str]]
    compiler: str | None = None

    def folder(self, root: Path) -> Path:
        """Return where the part is in a cache."""
        return part_folder(root, self.name, self.key)

    def facts(self, root: Path) -> dict[str, str] | None:
        """Return the part's facts, None when it is not there whole."""
        return part_facts(root, self.name, self.key)


def sysroot_part() -> Part:
    """Return Debian's arm64 Python, shared by all CPUs; facts: package → version."""

    def build(folder: Path, step: Step) -> dict[str, str]:
        with tempfile.TemporaryDirectory(prefix="edgeveil-apt-") as work:
            sysroot.build_sysroot(folder, Path(work), step)
            return sysroot.package_versions(Path(work))

    return Part("sysroot", sha256_record([_RECIPE, sysroot.PACKAGES]), False, build)


def wheels_part() -> Part:
    """Return numpy and ONNX Runtime for aarch64; facts: file → SHA-256."""
    return _wheels("wheels", wheels.RUNTIME_WHEELS, optional=False)


def lite_part() -> Part:
    """Return torch for aarch64, which runs ``.ptl`` artifacts; facts: file → SHA-256."""
    return _wheels("lite", wheels.LITE_WHEELS, optional=True)


def litert_part() -> Part:
    """Return LiteRT for aarch64, which runs ``.tflite`` artifacts; facts: file → SHA-256."""
    return _wheels("litert", wheels.LITERT_WHEELS, optional=True)


def executorch_part() -> Part:
    """Return ExecuTorch's libraries for aarch64 and our runner for ``.pte`` artifacts.

    Facts: file of the wheel → SHA-256.
    """
    wanted = wheels.EXECUTORCH_WHEELS

    def build(folder: Path, step: Step) -> dict[str, str]:
        with tempfile.TemporaryDirectory(prefix="edgeveil-executorch-") as work:
            package = _unpacked(wanted, Path(work), Path(work) / "site", step) / "executorch"
            step("compile the runner")
            build_executorch_runner(package, wanted[0].version, folder / RUNNER)
            (folder / "lib").mkdir()
            for name in RUNNER_LIBRARIES:
                shutil.copy(package / "lib" / f"lib{name}.so", folder / "lib")
        return _pins(wanted)

    made_of = [_pins(wanted), sha256_bytes(RUNNER_SOURCE.read_bytes()), RUNNER_FLAGS]
    key = sha256_record([_RECIPE, *made_of, RUNNER_LIBRARIES])
    return Part("executorch", key, True, build, CROSS_COMPILER)


def counter_part() -> Part:
    """Return the instruction counter, built by the host's compiler."""

    def build(folder: Path, step: Step) -> dict[str, str]:
        step("instruction counter")
        build_counter(folder / "counter.so")
        return {"source": sha256_bytes(SOURCE.read_bytes())}

    key = sha256_record([_RECIPE, sha256_bytes(SOURCE.read_bytes())])
    return Part("counter", key, False, build, COMPILER)


def cpu_part(cpu: Cpu, root: Path) -> Part:
    """Return the root that qemu redirects to: the sysroot, and the CPU's own /proc and /sys."""
    base = sysroot_part()

    def build(folder: Path, step: Step) -> dict[str, str]:
        step(f"{cpu.name}: /proc and /sys")
        for name, content in cpu.files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="ascii")
        for name in ("usr", "lib"):
            (folder / name).symlink_to(os.path.relpath(base.folder(root) / name, root / "part"))
        return {"cpu": cpu.name, "board": cpu.board}

    return Part(cpu.name, sha256_record([_RECIPE, base.key, cpu.files()]), False, build)


def parts_of(cpu: Cpu, root: Path) -> tuple[Part, ...]:
    """Return every part of a target in the order in which they are built."""
    needed = (sysroot_part(), wheels_part(), counter_part(), cpu_part(cpu, root))
    return (*needed, lite_part(), executorch_part(), litert_part())


def _wheels(name: str, wanted: tuple[wheels.Wheel, ...], *, optional: bool) -> Part:
    def build(folder: Path, step: Step) -> dict[str, str]:
        with tempfile.TemporaryDirectory(prefix="edgeveil-wheels-") as work:
            _unpacked(wanted, Path(work), folder / "site", step)
        return _pins(wanted)

    pinned = [(w.file, w.sha256) for w in wanted]
    return Part(name, sha256_record([_RECIPE, pinned, wheels.LEFT_OUT]), optional, build)


def _unpacked(wanted: tuple[wheels.Wheel, ...], work: Path, site: Path, step: Step) -> Path:
    step(", ".join(f"{w.distribution} {w.version}" for w in wanted))
    wheels.fetch(wanted, work)
    step("verify and unpack")
    wheels.unpack(wanted, work, site)
    return site


def _pins(wanted: tuple[wheels.Wheel, ...]) -> dict[str, str]:
    return {w.file: w.sha256 for w in wanted}
