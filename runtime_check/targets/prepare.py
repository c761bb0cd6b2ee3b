"""Prepare, list and remove emulated targets in the cache."""

from __future__ import annotations

import contextlib
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
    QEMU,
    SYSTEM_PACKAGES,
    find_emulator,
    install_command,
    missing_programs,
)


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
        extra: names of optional parts to build too.
        install_system_packages: run apt-get, as root, for what is missing of the system.
        progress: told about each step.

    Raises:
        InputError: there is no such CPU.
        UnsupportedHereError: a program, Debian's sources or the network is missing, or the runner
            does not start.
    """
    cpu = cpu_named(name)
    wanted = [p for p in parts.parts_of(cpu, root) if not p.optional or p.name in extra]
    _require_programs(wanted, root, install=install_system_packages)
    with locked(root):
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
    made = parts.parts_of(cpu_named(name), root)
    found = [_program_state(program, made, root) for program in SYSTEM_PACKAGES]
    for part in made:
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
            shared = [p.name for p in parts.parts_of(cpu_named(name), root) if p.name != name]
            gone += [folder for part in shared for folder in _folders(root, part)]
        for folder in gone:
            shutil.rmtree(folder)
    return tuple(folder.name for folder in gone)


def _folders(root: Path, part: str) -> list[Path]:
    # A part's folder is its name and twelve digits; a started runner's is the CPU's with a suffix.
    names = (f"{part}-????????????", f"{part}-started-????????????")
    return sorted(p for name in names for p in root.glob(name) if p.is_dir())


def _said(part: parts.Part, facts: dict[str, str]) -> str:
    if part.name == "sysroot":
        return f"Debian arm64, {len(facts)} packages, libc6 {facts.get('libc6', 'unknown')}"
    return ", ".join(facts) if any(name.endswith(".whl") for name in facts) else "ready"


def _program_state(program: str, made: Sequence[parts.Part], root: Path) -> PartState:
    uses = [part for part in made if part.compiler == program]
    optional = program != QEMU
    if not missing_programs((program,)):
        emulator = find_emulator() if program == QEMU else None
        detail = f"builds {', '.join(p.name for p in uses)}" if not emulator else emulator.version
        return PartState(part=program, ready=True, optional=optional, detail=detail)
    if uses and all(part.facts(root) is not None for part in uses):
        detail = f"not here, nor needed: {', '.join(p.name for p in uses)} is built"
        return PartState(part=program, ready=True, optional=optional, detail=detail)
    detail = f"missing; as root: {' '.join(install_command((program,)))}"
    return PartState(part=program, ready=False, optional=optional, detail=detail)


def _require_programs(wanted: Sequence[parts.Part], root: Path, *, install: bool) -> None:
    """Refuse where a program is missing that runs or builds what is not there yet."""
    compilers = [p.compiler for p in wanted if p.compiler is not None and p.facts(root) is None]
    needed = (QEMU, *compilers)
    lacking = missing_programs(needed)
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
    if done.returncode != 0 or missing_programs(needed):
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
    imports = {"torch": parts.lite_part(), "ai_edge_litert.interpreter": parts.litert_part()}
    found = [name for name, part in imports.items() if part.facts(guest.root) is not None]
    versions: dict[str, str] = {}
    for kind in guest.runners():
        with contextlib.closing(guest.session(kind, bytecode=True)) as session:
            versions |= session.hello(("onnxruntime", *found) if kind == "python" else ()).versions
    return versions
