"""Prepare, list and remove emulated targets in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from records.errors import UnsupportedHereError
from records.hashing import sha256_record
from records.progress import Progress, silent
from records.target import PartState, TargetState
from runtime_check.targets import parts
from runtime_check.targets.cache import build_part, locked
from runtime_check.targets.cpus import CPUS, Cpu, cpu_named
from runtime_check.targets.emulated import Guest
from runtime_check.targets.emulator import (
    find_emulator,
    install_command,
    missing_programs,
)

OPTIONAL = ("lite",)


def prepare(
    name: str,
    root: Path,
    *,
    extra: Sequence[str] = (),
    install_system_packages: bool = False,
    progress: Progress = silent,
) -> TargetState:
    """Build whatever of a target is not there yet; start its runner once.

    Every part appears by atomic rename, so a killed preparation goes on where it was.

    Args:
        name: of an emulated CPU.
        root: the cache.
        extra: optional parts to build too, of `OPTIONAL`.
        install_system_packages: run apt-get, as root, for what is missing of the system.
        progress: told about each step.

    Raises:
        InputError: there is no such CPU.
        UnsupportedHereError: a program, Debian's sources or the network is missing, or the runner
            does not start.
    """
    cpu = cpu_named(name)
    _require_programs(install=install_system_packages)
    with locked(root):
        wanted = [p for p in parts.parts_of(cpu, root) if not p.optional or p.name in extra]
        for number, part in enumerate(wanted):

            def step(text: str, number: int = number, part: parts.Part = part) -> None:
                progress(f"{name}, {part.name}: {text}", number, len(wanted) + 1)

            _build(part, root, step)
        progress(f"{name}: start the runner", len(wanted), len(wanted) + 1)
        _start_once(cpu, root)
        progress(f"{name}: ready", len(wanted) + 1, len(wanted) + 1)
    return state(name, root)


def state(name: str, root: Path) -> TargetState:
    """Return what of a target is there; nothing is built or started.

    Args:
        name: of an emulated CPU.
        root: the cache.

    Raises:
        InputError: there is no such CPU.
    """
    found = [_program_state(program) for program in ("qemu-aarch64", "cc")]
    for part in parts.parts_of(cpu_named(name), root):
        facts = part.facts(root)
        how = f"edgeveil target prepare {name}" + (f" --with {part.name}" * part.optional)
        detail = f"missing; run: {how}" if facts is None else _said(part, facts)
        ready = facts is not None
        found.append(PartState(part=part.name, ready=ready, optional=part.optional, detail=detail))
    return TargetState(target=name, folder=str(root), parts=tuple(found))


def states(root: Path) -> tuple[TargetState, ...]:
    """Return what of every emulated target is there."""
    return tuple(state(name, root) for name in CPUS)


def remove(name: str, root: Path) -> tuple[str, ...]:
    """Remove a target, and what no other prepared target shares; return the folders' names.

    Args:
        name: of an emulated CPU.
        root: the cache.

    Raises:
        InputError: there is no such CPU.
    """
    cpu_named(name)
    if not root.is_dir():
        return ()
    with locked(root):
        others = [o for o in CPUS if o != name and any(_folders(root, o))]
        gone = _folders(root, name)
        if not others:
            shared = ("sysroot", "wheels", "counter", "lite")
            gone += [folder for part in shared for folder in _folders(root, part)]
        for folder in gone:
            shutil.rmtree(folder)
    return tuple(folder.name for folder in gone)


def _folders(root: Path, part: str) -> list[Path]:
    # A part's folder is its name and twelve digits; a started runner's is the CPU's with a suffix.
    return sorted(p for p in root.glob(f"{part}*-????????????") if p.is_dir())


def _said(part: parts.Part, facts: dict[str, str]) -> str:
    if part.name == "sysroot":
        return f"Debian arm64, {len(facts)} packages, libc6 {facts.get('libc6', 'unknown')}"
    return ", ".join(facts) if part.name in ("wheels", "lite") else "ready"


def _program_state(program: str) -> PartState:
    if program in missing_programs():
        detail = f"missing; as root: {' '.join(install_command((program,)))}"
        return PartState(part=program, ready=False, optional=program == "cc", detail=detail)
    emulator = find_emulator() if program == "qemu-aarch64" else None
    detail = "C compiler, for the instruction counter" if emulator is None else emulator.version
    return PartState(part=program, ready=True, optional=program == "cc", detail=detail)


def _require_programs(*, install: bool) -> None:
    lacking = missing_programs()
    if not lacking:
        return
    command = install_command(lacking)
    if not install:
        raise UnsupportedHereError(
            f"{' and '.join(lacking)} missing; as root: {' '.join(command)}, or give "
            "--install-system-packages"
        )
    if os.geteuid() != 0:
        raise UnsupportedHereError(f"only root may install packages; as root: {' '.join(command)}")
    for step in (["apt-get", "-qq", "update"], command):
        done = subprocess.run(
            step,
            capture_output=True,
            text=True,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
    if done.returncode != 0 or missing_programs():
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UnsupportedHereError(f"apt-get did not bring {' and '.join(lacking)}: {last}")


def _build(part: parts.Part, root: Path, step: parts.Step) -> None:
    if part.facts(root) is None:
        build_part(root, part.name, part.key, lambda folder: part.build(folder, step))


def _start_once(cpu: Cpu, root: Path) -> None:
    """Start the runner, with every runtime imported, once for each set of parts and emulator.

    Python keeps the compiled modules then, which makes every later start twice as fast.
    """
    emulator = find_emulator()
    if emulator is None:
        raise UnsupportedHereError("qemu-aarch64 has gone while the target was prepared")
    keys = [part.key for part in parts.parts_of(cpu, root) if part.facts(root) is not None]
    started = parts.Part(
        f"{cpu.name}-started",
        sha256_record([keys, emulator.version]),
        optional=False,
        build=lambda folder, step: _hello(Guest(cpu, root, emulator)),
    )
    _build(started, root, lambda text: None)


def _hello(guest: Guest) -> dict[str, str]:
    lite = parts.lite_part().facts(guest.root) is not None
    session = guest.session(bytecode=True)
    try:
        return session.hello(("onnxruntime", *(("torch",) if lite else ()))).versions
    finally:
        session.close()
