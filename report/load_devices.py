"""What ``edgeveil device run`` brought back, as it lies in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from records import codec
from records.bench import BenchRecord
from records.device import RECORD_NAME, DeviceCheck, DeviceRecord
from records.errors import RecordError


@dataclass(frozen=True)
class DeviceRecords:
    """The records of one run on a device; ``name`` is that of their folder."""

    name: str
    device: DeviceRecord
    check: DeviceCheck | None
    bench: BenchRecord | None


def is_device_folder(folder: Path) -> bool:
    """Return whether a folder holds what ``edgeveil device run --out`` wrote."""
    return (folder / RECORD_NAME).is_file()


def load_device(folder: Path) -> DeviceRecords:
    """Read the records of one run on a device.

    Args:
        folder: holds ``device.json`` and, of the steps that ran, ``check.json``, ``bench.json``.

    Raises:
        RecordError: a record is malformed, or they belong to different bundles.
    """
    device = codec.read(folder / RECORD_NAME, DeviceRecord)
    check = bench = None
    if "check" in device.steps:
        check = codec.read(folder / "check.json", DeviceCheck)
    # Without cores for any of the thread counts there is none.
    if "bench" in device.steps and (folder / "bench.json").is_file():
        bench = codec.read(folder / "bench.json", BenchRecord)
    others = [record for record in (check, bench) if record is not None]
    if any(record.bundle_id != device.bundle_id for record in others):
        raise RecordError(
            f"the records of the device in {folder} belong to different bundles; run it again"
        )
    return DeviceRecords(folder.name, device, check, bench)
