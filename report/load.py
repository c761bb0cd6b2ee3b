"""The records of a run folder: what is there, what was not run, nothing that is malformed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from records import codec
from records.attack import RECORD_NAME as ATTACK_NAME
from records.attack import AttackRecord
from records.attack import Picture as PictureRecord
from records.bench import BenchRecord
from records.errors import InputError, RecordError
from records.hashing import sha256_bytes
from records.instructions import InstructionRecord
from records.manifest import MANIFEST_NAME, Manifest
from records.parity import CheckRecord
from records.recipe import Recipe
from records.training import TrainingRecord
from report.load_devices import DeviceRecords, is_device_folder, load_device

T = TypeVar("T")

MAX_PICTURE_BYTES = 32 * 1024 * 1024
_PICTURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,90}\.png")
_TARGET_RECORD = re.compile(r"(?:check-|bench-|attack-)(cortex-a[0-9]{2})(?:\.json)?")
_RECORDS = (
    "train/training.json",
    *(f"*/{name}" for name in ("bundle/manifest.json", "check.json", "bench.json")),
    *(f"*/{name}" for name in ("attack/attack.json", "device.json")),
    *(f"*/{name}" for name in ("check-*.json", "bench-*.json", "attack-*/attack.json")),
    *(f"*/*/{name}.json" for name in ("device", "check", "bench")),
)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class StoredPicture:
    """A PNG beside an attack record, verified against the record's hash.

    Attributes:
        record: what the attack record says of it.
        path: where it lies.
        png: its bytes; None when the file is not there.
    """

    record: PictureRecord
    path: Path
    png: bytes | None


@dataclass(frozen=True)
class TargetRecords:
    """The records of one split on one emulated target; None stands for what was not run."""

    target: str
    check: CheckRecord | None
    instructions: InstructionRecord | None
    attack: AttackRecord | None


@dataclass(frozen=True)
class SplitRecords:
    """The records of one split; None stands for a stage that was not run."""

    split: str
    folder: Path
    manifest: Manifest | None
    check: CheckRecord | None
    bench: BenchRecord | None
    attack: AttackRecord | None
    pictures: tuple[StoredPicture, ...]
    targets: tuple[TargetRecords, ...] = ()
    devices: tuple[DeviceRecords, ...] = ()


@dataclass(frozen=True)
class RunRecords:
    """All records of a run folder, splits in the recipe's order."""

    folder: Path
    training: TrainingRecord | None
    splits: tuple[SplitRecords, ...]

    @property
    def recipe(self) -> Recipe | None:
        """The recipe sealed in the first bundle, or None where there is no bundle."""
        return next((s.manifest.recipe for s in self.splits if s.manifest is not None), None)


def record_files(folder: Path) -> tuple[Path, ...]:
    """Return the record files of a run folder that decide its report, sorted.

    Args:
        folder: a run folder; records of targets and devices count too.
    """
    found = {path for pattern in _RECORDS for path in folder.glob(pattern) if path.is_file()}
    return tuple(sorted(p for p in found if not p.relative_to(folder).parts[0].startswith(".")))


def load_run(folder: Path) -> RunRecords:
    """Read every record of a run folder.

    Args:
        folder: holds ``train/training.json`` and, per split, ``bundle/manifest.json``,
            ``check.json``, ``bench.json`` and ``attack/attack.json``, and the same of an emulated
            target: ``check-TARGET.json`` and so on; each may be missing. A folder with
            ``device.json``, in it or in a split's, belongs to the split of its bundle.

    Raises:
        InputError: the folder is missing or holds no record at all.
        RecordError: a record is malformed, belongs to another bundle than its neighbours, or
            a picture does not have the bytes that the attack record saw.
    """
    if not folder.is_dir():
        raise InputError(f"run folder {folder} does not exist; make it with edgeveil run")
    training = _optional(folder / "train" / "training.json", TrainingRecord)
    places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    devices = [load_device(place) for place in places if is_device_folder(place)]
    places = [place for place in places if not is_device_folder(place)]
    splits = [s for s in map(_load_split, places) if s is not None]
    splits = _with_devices(folder, splits, devices)
    if training is None and not splits:
        raise InputError(f"{folder} holds no record of a run; make one with edgeveil run")
    return RunRecords(folder, training, tuple(_in_recipe_order(splits)))


def _load_split(folder: Path) -> SplitRecords | None:
    manifest = _optional(folder / "bundle" / MANIFEST_NAME, Manifest)
    check = _optional(folder / "check.json", CheckRecord)
    bench = _optional(folder / "bench.json", BenchRecord)
    attack = _optional(folder / "attack" / ATTACK_NAME, AttackRecord)
    places = sorted(p for p in folder.iterdir() if p.is_dir() and is_device_folder(p))
    devices = tuple(map(load_device, places))
    if not devices and manifest is None and check is None and bench is None and attack is None:
        return None
    _refuse_mixture(folder, manifest, check, bench, attack)
    pictures = () if attack is None else _pictures(folder / "attack", attack)
    targets = _targets(folder)
    _refuse_other_bundles(folder, manifest, targets, devices)
    return SplitRecords(
        folder.name, folder, manifest, check, bench, attack, pictures, targets, devices
    )


def _with_devices(
    folder: Path, splits: list[SplitRecords], devices: list[DeviceRecords]
) -> list[SplitRecords]:
    """Give the devices beside the splits to the split of their bundle."""
    for one in devices:
        found = [s for s in splits if s.manifest and s.manifest.bundle_id == one.device.bundle_id]
        if not found:
            raise RecordError(
                f"{folder / one.name} holds a device's records of bundle "
                f"{one.device.bundle_id[:12]}, which is not in {folder}"
            )
        index = splits.index(found[0])
        splits[index] = replace(splits[index], devices=(*splits[index].devices, one))
    return splits


def _targets(folder: Path) -> tuple[TargetRecords, ...]:
    matches = map(_TARGET_RECORD.fullmatch, (path.name for path in folder.iterdir()))
    return tuple(
        TargetRecords(
            name,
            _optional(folder / f"check-{name}.json", CheckRecord),
            _optional(folder / f"bench-{name}.json", InstructionRecord),
            _optional(folder / f"attack-{name}" / ATTACK_NAME, AttackRecord),
        )
        for name in sorted({match[1] for match in matches if match is not None})
    )


def _refuse_other_bundles(
    folder: Path,
    manifest: Manifest | None,
    targets: tuple[TargetRecords, ...],
    devices: tuple[DeviceRecords, ...],
) -> None:
    records = [r for t in targets for r in (t.check, t.instructions, t.attack) if r is not None]
    ids = {record.bundle_id for record in (*records, *(one.device for one in devices))}
    ids |= set() if manifest is None else {manifest.bundle_id}
    if len(ids) > 1:
        raise RecordError(
            f"the records of targets and devices in {folder} belong to different bundles; run "
            "check, bench and attack with --target, or device run, again"
        )


def _refuse_mixture(
    folder: Path,
    manifest: Manifest | None,
    check: CheckRecord | None,
    bench: BenchRecord | None,
    attack: AttackRecord | None,
) -> None:
    """Refuse records of different bundles in one folder: their figures must not be compared."""
    ids = {
        name: record.bundle_id
        for name, record in (
            ("bundle/manifest.json", manifest),
            ("check.json", check),
            ("bench.json", bench),
            ("attack/attack.json", attack),
        )
        if record is not None
    }
    if len(set(ids.values())) > 1:
        listed = ", ".join(f"{name} of {digest[:12]}" for name, digest in ids.items())
        raise RecordError(
            f"the records in {folder} belong to different bundles ({listed}); run the stages again"
        )


def _pictures(folder: Path, attack: AttackRecord) -> tuple[StoredPicture, ...]:
    return tuple(_picture(folder, record) for record in attack.pictures)


def _picture(folder: Path, record: PictureRecord) -> StoredPicture:
    if not _PICTURE_NAME.fullmatch(record.file):
        raise RecordError(
            f"{folder / ATTACK_NAME} names the picture {record.file!r}, which is no plain PNG name"
        )
    path = folder / record.file
    if not path.is_file():
        return StoredPicture(record, path, None)
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise RecordError(f"{path} is larger than {MAX_PICTURE_BYTES} bytes: not this attack's")
    png = path.read_bytes()
    if sha256_bytes(png) != record.sha256 or not png.startswith(_PNG_SIGNATURE):
        raise RecordError(f"{path} is not the picture of {ATTACK_NAME}; run the attack again")
    return StoredPicture(record, path, png)


def _in_recipe_order(splits: list[SplitRecords]) -> list[SplitRecords]:
    orders = [s.manifest.recipe.export.splits for s in splits if s.manifest is not None]
    order = list(orders[0]) if orders else []
    return sorted(
        splits, key=lambda s: (order.index(s.split) if s.split in order else len(order), s.split)
    )


def _optional(path: Path, kind: type[T]) -> T | None:
    return codec.read(path, kind) if path.exists() else None
