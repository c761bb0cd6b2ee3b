"""What a kit's results mean: the limits of its recipe, and the conditions of a sound measurement.

Both the device and the host judge with this file, from the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from benchmarks.machine_state import CpuUse
from benchmarks.timing import Measured
from benchmarks.validity import Judged, judged

#: Limits of `records.kit.KitLimits` on the share of values within 0, 1 and 2 LSB.
_SHARES = ("share_identical", "share_within_1_lsb", "share_within_2_lsb")


@dataclass(frozen=True)
class Verdict:
    """One limit, fixed when the kit was made, and what was measured.

    ``measured`` is None where the artifact did not run, or where a parity has no difference.
    """

    name: str
    artifact: str | None
    bound: str
    limit: float
    measured: float | None
    passed: bool


def check_verdicts(kit: dict[str, Any], record: dict[str, Any]) -> Iterator[Verdict]:
    """Yield every verdict of a check.

    Args:
        kit: `records.kit.KitRecord` as builtin values.
        record: `records.device.KitCheck` as builtin values.
    """
    differs = float(not record["preprocessing_identical"])
    yield Verdict("preprocessing_differs", None, "at most", 0.0, differs, differs == 0.0)
    for row in record["rows"]:
        limits = kit["limits"][row["artifact"]]
        if row.get("failure") is not None:
            yield Verdict("runs", row["artifact"], "at least", 1.0, None, False)
        elif row.get("from_eager") is None:
            yield _parity(row, limits)
        else:
            yield from _steps(row, limits)


def bench_conditions(machine: dict[str, Any], record: dict[str, Any]) -> tuple[Judged, ...]:
    """Judge one interleaved run of a device by the conditions of ``bench``.

    Args:
        machine: the device's facts.
        record: `records.device.KitBench` as builtin values, with at least one artifact.
    """
    measured = [measured_of(one) for one in record["artifacts"]]
    who: Any = SimpleNamespace(**machine)
    before: Any = SimpleNamespace(**record["before"])
    after: Any = SimpleNamespace(**record["after"])
    uses = CpuUse(**record["use_before"]), CpuUse(**record["use_after"])
    return judged(measured, who, (before, after), uses)


def measured_of(one: dict[str, Any]) -> Measured:
    """Return one artifact of a `records.device.KitBench` as what was timed."""
    blocks = tuple(tuple(block) for block in one["blocks_ns"])
    return Measured(one["artifact"], blocks, one["cpu_seconds"], one["wall_seconds"])


def share_within(histogram: list[int], steps: int) -> float:
    """Return the share of values that differ by at most so many LSB; 0 of an empty histogram."""
    return sum(histogram[: steps + 1]) / max(1, sum(histogram))


def _steps(row: dict[str, Any], limits: dict[str, Any]) -> Iterator[Verdict]:
    name, eager, host = row["artifact"], row["from_eager"], row["from_host"]
    yield _at_most("off_grid", name, 0, row["off_grid"])
    if limits["max_lsb"] is not None:
        yield _at_most("max_lsb", name, limits["max_lsb"], len(eager) - 1)
    if limits["max_lsb_from_host"] is not None and host is not None:
        yield _at_most("max_lsb_from_host", name, limits["max_lsb_from_host"], len(host) - 1)
    for steps, share in enumerate(_SHARES):
        if limits[share] is not None:
            yield _at_least(share, name, limits[share], share_within(eager, steps))


def _parity(row: dict[str, Any], limits: dict[str, Any]) -> Verdict:
    limit, signal, noise = limits["parity_sqnr_db"], row["signal"], row["noise"]
    if noise == 0.0:
        return Verdict("parity_sqnr_db", row["artifact"], "at least", limit, None, True)
    ratio = 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf
    return _at_least("parity_sqnr_db", row["artifact"], limit, ratio)


def _at_most(name: str, artifact: str, limit: float, measured: float) -> Verdict:
    passed = measured <= limit
    return Verdict(name, artifact, "at most", float(limit), float(measured), passed)


def _at_least(name: str, artifact: str, limit: float, measured: float) -> Verdict:
    passed = measured >= limit
    return Verdict(name, artifact, "at least", float(limit), float(measured), passed)
