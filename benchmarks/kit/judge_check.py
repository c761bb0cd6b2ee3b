"""A device's check as a record: validated, completed and judged again on the host."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np

from benchmarks.device.parity import EAGER
from benchmarks.device.verdicts import check_verdicts, share_within
from benchmarks.kit.build import BuiltKit
from export.bundle import Bundle
from records.bench import Skipped
from records.device import DeviceCheck, DeviceGate, DeviceRow, KitCheck, KitRow
from records.errors import RecordError
from records.parity import LsbDifference, WorstImage


def device_check(bundle: Bundle, kit: BuiltKit, found: KitCheck) -> DeviceCheck:
    """Return the record of a check on a device.

    Args:
        bundle: the verified bundle of the kit.
        kit: what was sent, with its expected outputs.
        found: what came back.

    Raises:
        RecordError: it does not belong to this kit, or contradicts itself.
    """
    sample = kit.file.kit.sample
    if sample is None:
        raise RecordError("the device sent a check, but the kit carries no images")
    names = [row.artifact for row in found.rows]
    if len(set(names)) != len(names) or not set(names) <= {a.name for a in bundle.edges()}:
        raise RecordError(f"the device sent rows of {names}, which are not the bundle's edges")
    plain = msgspec.to_builtins(found)
    for row in plain["rows"]:
        _complete(row, bundle, kit)
    gates = tuple(
        DeviceGate(**asdict(one))
        for one in check_verdicts(msgspec.to_builtins(kit.file.kit), plain)
    )
    return DeviceCheck(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        images=sample.count,
        preprocessing_identical=found.preprocessing_identical,
        artifacts=tuple(_row(bundle, kit, row) for row in found.rows),
        gates=gates,
        skipped=tuple(
            Skipped(artifact=one.artifact, threads=None, reason=one.reason) for one in found.skipped
        ),
        passed=bool(found.rows) and all(gate.passed for gate in gates),
    )


def _complete(row: dict[str, Any], bundle: Bundle, kit: BuiltKit) -> None:
    """Refuse a row that is not whole; put the host's own signal into an FP32 row."""
    name = row["artifact"]
    if row["failure"] is not None:
        return
    if bundle.artifact(name).precision == "fp32":
        if row["noise"] is None or row["max_abs"] is None or row["from_eager"] is not None:
            raise RecordError(f"the device sent no difference of {name}")
        row["signal"] = float(np.sum(np.square(kit.arrays[name].astype(np.float64))))
        return
    values = kit.arrays[EAGER].size
    histograms = [("from_eager", True), ("from_host", name in kit.arrays)]
    for key, wanted in histograms:
        if (row[key] is not None) != wanted:
            raise RecordError(f"the device's {key} of {name} is not what the kit asks for")
        if wanted and (sum(row[key]) != values or (row[key][-1] == 0)):
            raise RecordError(f"the device's {key} of {name} is no histogram of {values} values")


def _row(bundle: Bundle, kit: BuiltKit, row: KitRow) -> DeviceRow:
    real = bundle.artifact(row.artifact).precision == "fp32" and row.failure is None
    return DeviceRow(
        artifact=row.artifact,
        mode=row.mode,
        host_mode=kit.file.kit.host_modes.get(row.artifact),
        failure=row.failure,
        from_eager=_difference(bundle, kit, row, EAGER, row.from_eager),
        from_host=_difference(bundle, kit, row, row.artifact, row.from_host),
        parity_sqnr_db=_parity(kit, row) if real else None,
        max_abs=row.max_abs if real else None,
    )


def _difference(
    bundle: Bundle, kit: BuiltKit, row: KitRow, reference: str, found: tuple[int, ...] | None
) -> LsbDifference | None:
    if found is None or row.failure is not None:
        return None
    eager = reference == EAGER
    steps = kit.arrays[reference].astype(np.int64) - bundle.manifest.wire.zero_point
    noise = sum(count * k * k for k, count in enumerate(found))
    return LsbDifference(
        values=sum(found),
        max_lsb=len(found) - 1,
        histogram=found,
        share_identical=share_within(list(found), 0),
        share_within_1_lsb=share_within(list(found), 1),
        parity_sqnr_db=_decibels(float(np.sum(np.square(steps))), float(noise), row.artifact),
        off_grid=row.off_grid,
        worst=tuple(WorstImage(**msgspec.to_builtins(one)) for one in row.worst) if eager else (),
    )


def _parity(kit: BuiltKit, row: KitRow) -> float | None:
    signal = float(np.sum(np.square(kit.arrays[row.artifact].astype(np.float64))))
    return _decibels(signal, row.noise or 0.0, row.artifact)


def _decibels(signal: float, noise: float, name: str) -> float | None:
    if noise == 0.0:
        return None
    if signal == 0.0:
        raise RecordError(f"the host's {name} is zero on every image; the network is broken")
    return 10.0 * math.log10(signal / noise)
