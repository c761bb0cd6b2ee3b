"""What this machine is: CPU, instruction sets, cores, memory, versions. Core install only."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from records.machine import MachineRecord

X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})

#: The flags that decide which float and INT8 kernels the runtimes choose, x86 then ARM.
ISA_FLAGS = [
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "neon",
    "asimd",
    "fphp",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
]

#: Distributions whose version a record names, where they are installed.
DISTRIBUTIONS = ("edgeveil", "msgspec", "numpy", "onnxruntime", "torch")

# "CPU part" of /proc/cpuinfo for ARM's own cores (implementer 0x41), from the cores' Technical
# Reference Manuals (MIDR_EL1.PartNum): ARM kernels give no model name.
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as Linux names them (empty where there is no /proc)."""
    return parse_flags(_read(Path("/proc/cpuinfo")))


def parse_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first CPU in a /proc/cpuinfo text (``flags``, ARM ``Features``)."""
    fields = _cpuinfo_fields(cpuinfo)
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())


def parse_cpu_model(cpuinfo: str) -> str | None:
    """Return the CPU's name from a /proc/cpuinfo text: its model name, or the names of ARM parts.

    A CPU of several kinds of cores is named after all of them; None when the text names none.
    """
    fields = _cpuinfo_fields(cpuinfo)
    if fields.get("model name"):
        return fields["model name"]
    parts = sorted({value for key, value in _cpuinfo_lines(cpuinfo) if key == "CPU part"})
    if not parts:
        return None
    implementer = fields.get("CPU implementer", "")
    known = _ARM_PARTS if implementer == "0x41" else {}
    return " + ".join(known.get(p, f"implementer {implementer} part {p}") for p in parts)


def is_x86() -> bool:
    """Return whether this process runs on an x86 or x86-64 CPU."""
    return platform.machine().lower() in X86


def has_vnni() -> bool:
    """Return whether the CPU multiplies u8·s8 without a saturating 16-bit accumulator (VNNI).

    Always False on ARM, which has no such accumulator and needs no such care.
    """
    return is_x86() and bool(cpu_flags() & VNNI_FLAGS)


def needs_precise_mode() -> bool:
    """Return whether ONNX Runtime's default INT8 kernels would saturate here: x86 without VNNI."""
    return is_x86() and not has_vnni()


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many logical CPUs this process may use: affinity, cut by a cgroup quota.

    Args:
        root: where ``sys/fs/cgroup`` is looked for; another folder in tests.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        cores = min(cores, max(1, math.floor(int(quota) / int(period))))
    return cores


def installed_version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine_record(root: Path = Path("/")) -> MachineRecord:
    """Return what this machine is, with None for whatever it does not tell.

    Args:
        root: where ``proc``, ``sys`` and ``etc`` are looked for; another folder in tests.
    """
    # Imported late: a device that runs a kit has no msgspec, and takes the facts as they are.
    from records.machine import MachineRecord

    return MachineRecord(**machine_facts(root))


def machine_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Return the fields of `machine_record` as builtin values; needs the standard library only.

    Args:
        root: as there.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    flags = parse_flags(cpuinfo)
    versions = {name: installed_version(name) for name in DISTRIBUTIONS}
    return {
        "cpu_model": parse_cpu_model(cpuinfo) or platform.processor() or "unknown",
        "board": _read(root / "proc/device-tree/model").strip("\x00\n ") or None,
        "arch": platform.machine(),
        "isa": tuple(flag for flag in ISA_FLAGS if flag in flags),
        "vnni": has_vnni(),
        "ort_mode": "precise" if needs_precise_mode() else "default",
        "cores": usable_cores(root),
        "cores_online": os.cpu_count() or 1,
        "max_frequency_mhz": _max_frequency_mhz(root),
        "memory_bytes": _memory_bytes(_read(root / "proc/meminfo")),
        "governors": _governors(root),
        "virtual": _virtual(root, flags),
        "emulated": _emulator(root),
        "os": _os_name(_read(root / "etc/os-release")),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version for name, version in versions.items() if version is not None},
    }


def _governors(root: Path) -> tuple[str, ...]:
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return tuple(sorted({_read(file).strip() for file in files} - {""}))


def _max_frequency_mhz(root: Path) -> float | None:
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/cpuinfo_max_freq")
    kilohertz = [int(text) for file in files if (text := _read(file).strip()).isdigit()]
    return max(kilohertz) / 1000 if kilohertz else None


def _memory_bytes(meminfo: str) -> int | None:
    for line in meminfo.splitlines():
        key, _, value = line.partition(":")
        if key == "MemTotal" and value.split()[:1] and value.split()[0].isdigit():
            return int(value.split()[0]) * 1024
    return None


def _virtual(root: Path, flags: frozenset[str]) -> str | None:
    product = _read(root / "sys/class/dmi/id/product_name").strip()
    hypervisor = _read(root / "sys/hypervisor/type").strip()
    if hypervisor or "hypervisor" in flags or (root / "proc/device-tree/hypervisor").exists():
        return f"virtual machine ({hypervisor or product or 'hypervisor not named'})"
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return "container"
    return None


def _emulator(root: Path) -> str | None:
    # qemu-user answers for /proc/self/exe, but not for the same link below task/.
    link = root / f"proc/self/task/{threading.get_native_id()}/exe"
    try:
        name = link.readlink().name
    except OSError:
        return None
    return name if name.startswith("qemu-") else None


def _os_name(os_release: str) -> str:
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip().strip('"')
    return platform.platform()


def _cpuinfo_lines(cpuinfo: str) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return [(key.strip(), value.strip()) for key, colon, value in pairs if colon]


def _cpuinfo_fields(cpuinfo: str) -> dict[str, str]:
    # The first CPU's value wins: a dict made from the reversed lines keeps the first one.
    return dict(reversed(_cpuinfo_lines(cpuinfo)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
