"""What runs here, what does not, and what would change that. The network is not touched."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from baseline.cifar import CIFAR100_FOLDER, default_root
from records.counted import counted
from records.doctor import DoctorRecord, RuntimeHealth, SourceHealth, VerbHealth
from records.machine import MachineRecord
from records.progress import Progress, silent
from records.recipe import BenchRecipe
from runtime_check.machine import installed_version, is_x86, machine_record
from runtime_check.targets.cache import cache_root
from runtime_check.targets.prepare import states
from runtime_check.targets.ssh import ssh_missing

INSTALL = "pip install '.[export]'"

TIMEOUT_SECONDS = 180

#: Import name → the distribution that pip knows.
DISTRIBUTION_OF = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "executorch": "executorch",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "torch": "torch",
    "torchvision": "torchvision",
}

_NETWORK = ("torch", "torchvision", "safetensors")
_REPORT = ("jinja2", "matplotlib")
_ALL = (*_NETWORK, "onnx", "scipy", "skimage", *_REPORT)
#: The packages of the extra that each verb refuses to start without.
VERBS: dict[str, tuple[str, ...]] = {
    "attack": (*_NETWORK, "PIL"),
    "bench": (),
    "check": (*_NETWORK, "onnx"),
    "device": (*_NETWORK, "onnx"),
    "doctor": (),
    "export": _ALL,
    "inspect": _NETWORK,
    "kit": (*_NETWORK, "onnx"),
    "operators": (),
    "report": _REPORT,
    "run": _ALL,
    "sensitivity": _ALL,
    "sweep": _ALL,
    "target": (),
    "train": (*_NETWORK, "skimage", "PIL"),
}

RuntimeHealthName = Literal["ort", "lite", "executorch", "litert"]

#: Runtime → import name of the package that brings it.
_RUNTIMES: dict[RuntimeHealthName, str] = {
    "ort": "onnxruntime",
    "lite": "torch",
    "executorch": "executorch",
    "litert": "ai_edge_litert",
}
#: Runtime → suffix of its files and the extra that brings it; ONNX Runtime is of the core.
_SUFFIXES = {
    "lite": (".ptl", "export"),
    "executorch": (".pte", "executorch"),
    "litert": (".tflite", "litert"),
}

#: Data source → the packages that read it.
_SOURCES: dict[str, tuple[str, ...]] = {
    "photos": ("skimage", "PIL"),
    "cifar100[:ROOT]": ("torchvision",),
    "npz:FILE": (),
    "folder:DIR": ("PIL",),
}


def examine(*, progress: Progress = silent) -> DoctorRecord:
    """Look at this machine and installation; run each installed runtime in a fresh process.

    Args:
        progress: told about each runtime.

    Returns:
        The record; ``record.usable`` is False when ONNX Runtime does not work here.
    """
    machine = machine_record()
    runtimes = []
    for runtime, package in _RUNTIMES.items():
        runtimes.append(runtime_health(runtime, package))
        progress("doctor: runtimes", len(runtimes), len(_RUNTIMES))
    verbs = tuple(VerbHealth(verb=v, missing=missing(needed)) for v, needed in VERBS.items())
    return DoctorRecord(
        machine=machine,
        runtimes=tuple(runtimes),
        verbs=verbs,
        sources=tuple(_source(name) for name in _SOURCES),
        install=INSTALL if any(verb.missing for verb in verbs) else None,
        follows=follows(machine),
        skipped=(*skipped(machine, runtimes), *devices_skipped()),
        targets=states(cache_root()),
    )


def missing(packages: Sequence[str]) -> tuple[str, ...]:
    """Return the distributions of those import names that are not installed; imports none."""
    return tuple(DISTRIBUTION_OF[name] for name in packages if find_spec(name) is None)


def runtime_health(runtime: RuntimeHealthName, package: str) -> RuntimeHealth:
    """Run a small program with a known answer in a runtime, in a fresh process.

    Args:
        runtime: short name of the runtime.
        package: import name of the package that brings it.
    """
    if find_spec(package) is None:
        detail = f"{DISTRIBUTION_OF[package]} is not installed"
        return RuntimeHealth(runtime=runtime, version=None, works=False, detail=detail)
    command = [sys.executable, "-P", "-m", "runtime_check.runtime_probe", runtime]
    works, detail = _ask(command)
    return RuntimeHealth(
        runtime=runtime,
        version=installed_version(DISTRIBUTION_OF[package]),
        works=works,
        detail=detail,
    )


def follows(machine: MachineRecord) -> tuple[str, ...]:
    """Return what the machine's features mean for the figures measured here."""
    found = [_kernels(machine)]
    if is_x86():
        found.append("x86: latencies measured here say nothing about an ARM device")
    if machine.virtual is not None:
        found.append(f"{machine.virtual}: neighbours may disturb bench, which then says INVALID")
    if machine.emulated is not None:
        found.append(f"emulated by {machine.emulated}: every latency will be marked INVALID")
    slow = [name for name in machine.governors if name != "performance"]
    if slow:
        found.append(f"cpufreq governor {', '.join(slow)}: clock rates may change during bench")
    return tuple(found)


def skipped(machine: MachineRecord, runtimes: Sequence[RuntimeHealth]) -> tuple[str, ...]:
    """Return what will be skipped on this machine, each with its reason."""
    found = [
        f"bench with {counted(n, 'thread')}: only {counted(machine.cores, 'core')} may be used"
        for n in BenchRecipe().threads
        if n > machine.cores
    ]
    for health in runtimes:
        suffix, extra = _SUFFIXES.get(health.runtime, ("", ""))
        if suffix and not health.works:
            found.append(f"every {suffix} artifact: {health.detail}{_way_out(health, extra)}")
    return tuple(found)


def devices_skipped() -> tuple[str, ...]:
    """Return why no device can be reached from here, if so."""
    missing_ssh = ssh_missing()
    return () if missing_ssh is None else (f"device and every ssh:// target: {missing_ssh}",)


def _way_out(health: RuntimeHealth, extra: str) -> str:
    return f"; run: pip install '.[{extra}]'" if health.version is None else ""


def _kernels(machine: MachineRecord) -> str:
    if machine.ort_mode == "precise":
        return (
            "no VNNI: ONNX Runtime's default INT8 kernels would saturate, so its precise mode is "
            "used; INT8 gains no speed here"
        )
    if machine.vnni:
        return "VNNI: ONNX Runtime's INT8 products are exact in its default mode"
    if "i8mm" in machine.isa or "asimddp" in machine.isa:
        return "8-bit dot products (asimddp): INT8 kernels can use them"
    return "no 8-bit dot products (asimddp): INT8 gains less speed than on newer ARM cores"


def _source(name: str) -> SourceHealth:
    lacking = missing(_SOURCES[name])
    if lacking:
        detail = f"{', '.join(lacking)} not installed"
        return SourceHealth(source=name, state="no", detail=detail)
    match name:
        case "photos":
            detail = "embedded in scikit-image's wheel"
            return SourceHealth(source=name, state="ready", detail=detail)
        case "cifar100[:ROOT]":
            return _cifar100(name)
        case "npz:FILE":
            detail = "your own file with train_x, train_y, test_x, test_y"
        case _:
            detail = "your own folder with one folder a class"
    return SourceHealth(source=name, state="with data", detail=detail)


def _cifar100(name: str) -> SourceHealth:
    root = default_root()
    if (root / CIFAR100_FOLDER).is_dir():
        return SourceHealth(source=name, state="ready", detail=f"in {root}")
    detail = f"not in {root}: --download fetches it there, or ROOT names where it is"
    return SourceHealth(source=name, state="with --download", detail=detail)


def _ask(command: list[str]) -> tuple[bool, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {TIMEOUT_SECONDS} s"
    if done.returncode < 0:
        return False, f"killed by {signal.Signals(-done.returncode).name} (an unsupported CPU?)"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"
