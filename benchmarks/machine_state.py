"""The machine's changing state: load, temperatures, throttling, and who used the CPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from records.machine import MachineState

_ROOT = Path("/")
_THROTTLED_FILE = "sys/devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True)
class CpuUse:
    """CPU seconds since some fixed moment; only differences mean something.

    ``busy``: by anything on the machine; ``stolen``: that the hypervisor gave to others;
    ``total``: of all CPUs, idle or not (all three None where there is no /proc/stat).
    ``own``: by this process. ``wall``: seconds of the monotonic clock.
    """

    busy: float | None
    stolen: float | None
    total: float | None
    own: float
    wall: float


def machine_state(root: Path = _ROOT) -> MachineState:
    """Read load, temperatures, frequencies and throttling; what is not there stays empty.

    Args:
        root: where ``sys`` is looked for; another folder in tests.
    """
    # Imported late: a device that runs a kit has no msgspec, and takes the facts as they are.
    from records.machine import MachineState

    return MachineState(**state_facts(root))


def state_facts(root: Path = _ROOT) -> dict[str, Any]:
    """Return the fields of `machine_state` as builtin values; needs the standard library only.

    Args:
        root: as there.
    """
    return {
        "load_average": _load_average(),
        "temperatures_c": _temperatures(root),
        "frequencies_mhz": _frequencies(root),
        "throttled_bits": _throttled_bits(root),
        "throttle_count": _throttle_count(root),
    }


def cpu_use(root: Path = _ROOT) -> CpuUse:
    """Read the CPU seconds used so far, from /proc/stat and this process's own clock."""
    busy = stolen = total = None
    fields = _read(root / "proc/stat").partition("\n")[0].split()
    if len(fields) >= 9 and fields[0] == "cpu":
        # user nice system idle iowait irq softirq steal (proc(5)); guest is part of user.
        ticks = [int(field) for field in fields[1:9]]
        second = os.sysconf("SC_CLK_TCK")
        total = sum(ticks) / second
        stolen = ticks[7] / second
        busy = total - (ticks[3] + ticks[4]) / second - stolen
    return CpuUse(busy, stolen, total, time.process_time(), time.monotonic())


def stolen_share(before: CpuUse, after: CpuUse) -> float | None:
    """Return the share of all CPU time that the hypervisor gave to other machines, in [0, 1]."""
    if before.stolen is None or after.stolen is None:
        return None
    return (after.stolen - before.stolen) / _elapsed_total(before, after)


def others_share(before: CpuUse, after: CpuUse) -> float | None:
    """Return the share of all CPU time that other processes of this machine used, in [0, 1]."""
    if before.busy is None or after.busy is None:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, others) / _elapsed_total(before, after)


def _elapsed_total(before: CpuUse, after: CpuUse) -> float:
    if before.total is None or after.total is None:
        return 1.0
    return max(after.total - before.total, 1e-3)


def _load_average() -> tuple[float, float, float] | None:
    try:
        return os.getloadavg()
    except OSError:
        return None


def _temperatures(root: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = _read(zone / "temp").strip()
        if text.lstrip("-").isdigit():
            found[f"{zone.name}:{_read(zone / 'type').strip()}"] = int(text) / 1000
    return found


def _frequencies(root: Path) -> tuple[float, ...]:
    folder = root / "sys/devices/system/cpu"
    files = sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    return tuple(int(text) / 1000 for file in files if (text := _read(file).strip()).isdigit())


def _throttled_bits(root: Path) -> int | None:
    """Return the Raspberry Pi firmware's word: from sysfs, else from vcgencmd."""
    text = _read(root / _THROTTLED_FILE).strip() or _vcgencmd(root)
    try:
        return int(text.rpartition("=")[2], 16)
    except ValueError:
        return None


def _vcgencmd(root: Path) -> str:
    program = str(root / "usr/bin/vcgencmd")
    if root == _ROOT:
        # Older systems of the Raspberry Pi have it elsewhere, in /opt/vc/bin.
        program = shutil.which("vcgencmd") or program
    if not Path(program).exists():
        return ""
    try:
        done = subprocess.run(
            [program, "get_throttled"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _throttle_count(root: Path) -> int | None:
    folder = root / "sys/devices/system/cpu"
    files = folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(text) for file in files if (text := _read(file).strip()).isdigit()]
    return sum(counts) if counts else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
