"""What this machine is: CPU, instruction sets, cores, governor, temperatures. Core install only."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as Linux names them (empty where there is no /proc)."""
    return parse_flags(_read(Path("/proc/cpuinfo")) or "")


def parse_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first CPU in a /proc/cpuinfo text (``flags``, ARM ``Features``)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def is_x86() -> bool:
    """Return whether this process runs on an x86 or x86-64 CPU."""
    return platform.machine().lower() in _X86


def has_vnni() -> bool:
    """Return whether the CPU multiplies u8·s8 without a saturating 16-bit accumulator (VNNI).

    Always False on ARM, which has no such accumulator and needs no such care.
    """
    return is_x86() and bool(cpu_flags() & _VNNI)


def needs_precise_mode() -> bool:
    """Return whether ONNX Runtime's default INT8 kernels would saturate here: x86 without VNNI."""
    return is_x86() and not has_vnni()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
