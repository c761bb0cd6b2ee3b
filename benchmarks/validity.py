"""Whether a measurement may be believed: conditions fixed here, before anything is measured.

A run that misses one is INVALID: its figures are kept and shown as such, it gives no verdict, and
it is never averaged with a better one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine_state import CpuUse, others_share, stolen_share
from benchmarks.timing import Measured, nearest_rank

if TYPE_CHECKING:
    from records.bench import Criterion
    from records.machine import MachineRecord, MachineState

#: (p90 − p10) / p50 of an artifact's block medians: neighbours, frequency changes.
MAX_BLOCK_SPREAD = 0.20
#: |median of the last third of the blocks / median of the first third − 1|: heat, slow drifts.
MAX_DRIFT = 0.10
#: 1 − CPU seconds of this process / wall seconds: time in which it wanted to run and did not.
MAX_OFF_CPU = 0.05
#: Share of all CPU time that the hypervisor gave to other machines.
MAX_STOLEN = 0.02
#: Share of all CPU time that other processes of this machine used.
MAX_OTHERS = 0.10
#: °C of the hottest sensor on ARM; the Raspberry Pi's firmware slows the CPU from 80 °C on.
MAX_TEMPERATURE_C = 80.0

# Bits 0-3 of the Raspberry Pi's word: under-voltage, frequency capped, throttled, soft limit.
# Bits 16-19: the same has happened since boot.
_THROTTLED_NOW = 0b1111
_THROTTLED_SINCE_BOOT = 0b1111 << 16


@dataclass(frozen=True)
class Judged:
    """One condition and what was found; the fields of `records.bench.Criterion`."""

    name: str
    value: float | None
    limit: float
    met: bool
    where: str | None


def criteria(
    measured: Sequence[Measured],
    machine: MachineRecord,
    states: tuple[MachineState, MachineState],
    uses: tuple[CpuUse, CpuUse],
) -> tuple[Criterion, ...]:
    """Judge one interleaved run.

    Args:
        measured: every subject of the run, at least one.
        machine: the machine that it ran on.
        states: before and after the run.
        uses: CPU seconds before and after the run.

    Returns:
        One criterion each for block spread, drift, time off the CPU, stolen time, other processes,
        throttling, temperature and emulation. What the machine does not tell has the value
        None and is met.
    """
    # Imported late: a device that runs a kit has no msgspec, and judges without records.
    from records.bench import Criterion

    return tuple(Criterion(**asdict(one)) for one in judged(measured, machine, states, uses))


def judged(
    measured: Sequence[Measured],
    machine: MachineRecord,
    states: tuple[MachineState, MachineState],
    uses: tuple[CpuUse, CpuUse],
) -> tuple[Judged, ...]:
    """Return what `criteria` returns, without records: needs numpy and this package only.

    Args:
        measured: as there.
        machine: as there; ``arch`` and ``emulated`` are looked at.
        states: as there.
        uses: as there.
    """
    spread, spread_at = _worst(measured, block_spread)
    moved, moved_at = _worst(measured, drift)
    waited, waited_at = _worst(measured, off_cpu)
    heat, sensor = _hottest(machine, states[1])
    return (
        _criterion("spread of block medians", spread, MAX_BLOCK_SPREAD, spread_at),
        _criterion("drift of block medians", moved, MAX_DRIFT, moved_at),
        _criterion("wall time off the CPU", waited, MAX_OFF_CPU, waited_at),
        _criterion("CPU time stolen by the hypervisor", stolen_share(*uses), MAX_STOLEN),
        _criterion("CPU time of other processes", others_share(*uses), MAX_OTHERS),
        _criterion("throttling events", throttled(*states), 0.0),
        _criterion("temperature in °C", heat, MAX_TEMPERATURE_C, sensor),
        _criterion("emulated", float(machine.emulated is not None), 0.0, machine.emulated),
    )


def block_spread(measured: Measured) -> float:
    """Return (p90 − p10) / p50 of the block medians, nearest-rank: 0 when all are equal."""
    medians = [nearest_rank(block, 50) for block in measured.blocks]
    middle = max(1, nearest_rank(medians, 50))
    return (nearest_rank(medians, 90) - nearest_rank(medians, 10)) / middle


def drift(measured: Measured) -> float:
    """Return |median of the last third / median of the first third − 1| over block medians."""
    medians = np.array([nearest_rank(block, 50) for block in measured.blocks])
    third = max(1, medians.size // 3)
    return abs(float(np.median(medians[-third:]) / max(1.0, np.median(medians[:third]))) - 1)


def off_cpu(measured: Measured) -> float:
    """Return the share of the measuring's wall time in which this process had no CPU, in [0, 1]."""
    return max(0.0, 1 - measured.cpu_seconds / max(measured.wall_seconds, 1e-9))


def throttled(before: MachineState, after: MachineState) -> float | None:
    """Return how many throttling signs the run met; None where the machine tells of none.

    On a Raspberry Pi: bits that are set now, and since-boot bits that the run has set. On x86:
    thermal throttle events during the run.
    """
    signs: list[int] = []
    if before.throttled_bits is not None and after.throttled_bits is not None:
        new = after.throttled_bits & ~before.throttled_bits & _THROTTLED_SINCE_BOOT
        now = (before.throttled_bits | after.throttled_bits) & _THROTTLED_NOW
        signs.append((new | now).bit_count())
    if before.throttle_count is not None and after.throttle_count is not None:
        signs.append(max(0, after.throttle_count - before.throttle_count))
    return float(sum(signs)) if signs else None


def _worst(
    measured: Sequence[Measured], value: Callable[[Measured], float]
) -> tuple[float, str | None]:
    worst = max(measured, key=value)
    return value(worst), worst.name


def _hottest(machine: MachineRecord, state: MachineState) -> tuple[float | None, str | None]:
    # On x86 the throttle counter tells directly; laptops work above 80 °C by design.
    if machine.arch not in {"aarch64", "arm64", "armv7l"} or not state.temperatures_c:
        return None, None
    sensor = max(state.temperatures_c, key=lambda name: state.temperatures_c[name])
    return state.temperatures_c[sensor], sensor


def _criterion(name: str, value: float | None, limit: float, where: str | None = None) -> Judged:
    met = value is None or value <= limit
    return Judged(
        name=name,
        value=None if value is None else round(value, 6),
        limit=limit,
        met=met,
        where=where,
    )
