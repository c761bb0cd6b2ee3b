"""Where the figures come from: training, machine, data, hashes, versions."""

from __future__ import annotations

from collections.abc import Iterable

from records.counted import counted
from records.machine import MachineRecord
from records.manifest import DataRecord
from records.training import TrainingRecord
from report.document import (
    Block,
    Cell,
    Paragraph,
    Section,
    Table,
    code,
    columns,
    text,
)
from report.load import RunRecords
from report.units import NONE, count, interval, number, percent, seconds, size


def training_section(run: RunRecords) -> Section:
    """Return how the network was trained and how good it is."""
    if run.training is None:
        return Section("training", "Training", (Paragraph("Not run.", "muted"),))
    return Section("training", "Training", (_training(run.training),))


def machine_section(run: RunRecords) -> Section:
    """Return every machine that a latency comes from."""
    machines: dict[str, tuple[MachineRecord, list[str]]] = {}
    for records in run.splits:
        if records.bench is not None:
            key = repr(records.bench.machine)
            machines.setdefault(key, (records.bench.machine, []))[1].append(records.split)
    blocks: list[Block] = [_machine(machine, splits) for machine, splits in machines.values()]
    if not blocks:
        blocks.append(Paragraph("The bench was not run: no machine is recorded.", "muted"))
    return Section("machine", "Machine", tuple(blocks))


def provenance_section(run: RunRecords) -> Section:
    """Return data hashes, record hashes and library versions."""
    blocks: list[Block] = [_data_table(name, data) for name, data in _data_records(run)]
    hashes = _hashes(run)
    if hashes:
        blocks.append(
            Table(
                caption="SHA-256 of every file",
                columns=columns("File", "SHA-256"),
                rows=hashes,
            )
        )
    versions = _versions(run)
    if versions:
        blocks.append(
            Table(
                caption="Versions",
                columns=columns("Library", "Version", "Stage"),
                rows=versions,
            )
        )
    if not blocks:
        blocks.append(Paragraph("Not run.", "muted"))
    return Section("provenance", "Data, hashes and versions", tuple(blocks))


def _training(record: TrainingRecord) -> Table:
    accuracy = record.victim_accuracy
    losses = [number(e.loss, 4) for e in record.epochs]
    bounds = interval(percent(accuracy.low), percent(accuracy.high))
    top1 = (
        f"{percent(accuracy.top1, 2)}, {percent(accuracy.confidence, 0)} interval {bounds} "
        f"({count(accuracy.correct)} of {count(accuracy.count)} victims)"
    )
    rows = {
        "Network": record.model.name,
        "Weights at the start": record.model.weights,
        "Parameters": count(record.parameters),
        "Input": f"{record.model.image_size} × {record.model.image_size} pixels",
        "Epochs": count(len(record.epochs)),
        "Loss, first and last epoch": " → ".join(dict.fromkeys([*losses[:1], *losses[-1:]]))
        or NONE,
        "Top-1 in FP32": top1,
        "Device": f"{record.device}, {counted(record.threads, 'thread')}",
        "Time": seconds(record.seconds),
    }
    return _facts("The network before it is split", rows)


def _machine(machine: MachineRecord, splits: list[str]) -> Table:
    frequency = number(machine.max_frequency_mhz, 0, "MHz")
    rows = {
        "CPU": machine.cpu_model,
        "Board": machine.board or NONE,
        "Architecture": f"{machine.arch}; {' '.join(machine.isa) or 'no flags recorded'}",
        "8-bit dot products (VNNI)": "yes" if machine.vnni else "no",
        "ONNX Runtime mode": machine.ort_mode,
        "Cores": f"{machine.cores} of {machine.cores_online} usable",
        "Highest frequency": frequency,
        "Memory": size(machine.memory_bytes),
        "Governor": ", ".join(machine.governors) or "not told here",
        "Virtual machine": machine.virtual or "none known",
        "Emulated": machine.emulated or "no",
        "System": f"{machine.os}, kernel {machine.kernel}",
        "Python": machine.python,
    }
    return _facts(f"Latency of {', '.join(splits)} was measured on", rows)


def _facts(caption: str, rows: dict[str, str]) -> Table:
    return Table(
        caption=caption,
        columns=columns("What", "Value"),
        rows=tuple((text(name), text(value)) for name, value in rows.items()),
    )


def _data_records(run: RunRecords) -> Iterable[tuple[str, DataRecord]]:
    """Return each distinct data record with who recorded it."""
    found: dict[str, DataRecord] = {}
    if run.training is not None:
        found["train"] = run.training.data
    for records in run.splits:
        if records.manifest is not None and records.manifest.data not in found.values():
            found[records.split] = records.manifest.data
    return found.items()


def _data_table(recorded_by: str, data: DataRecord) -> Table:
    sets = {
        "train": data.train,
        "calibration": data.calibration,
        "attacker": data.attacker,
        "victim": data.victim,
    }
    classes = f"{len(data.classes)} classes: {', '.join(data.classes[:12])}"
    more = len(data.classes) - 12
    return Table(
        caption=f"Images of {data.source} (recorded by {recorded_by})",
        columns=columns("Set", ">Images", "SHA-256 of images and labels"),
        rows=tuple(
            (text(name), text(count(one.count)), code(one.sha256)) for name, one in sets.items()
        ),
        note=(
            f"{data.native_size} × {data.native_size} pixels; {classes}"
            f"{f' and {more} more' if more > 0 else ''}. {count(data.dropped_duplicates)} "
            f"duplicates dropped. Attacker's pool: {data.attacker_pool}."
        ),
    )


def _hashes(run: RunRecords) -> tuple[tuple[Cell, ...], ...]:
    rows: list[tuple[str, str]] = []
    if run.training is not None:
        rows.append((f"train/{run.training.checkpoint_file}", run.training.checkpoint_sha256))
    for records in run.splits:
        if records.manifest is None:
            continue
        place = f"{records.split}/bundle"
        rows.append((f"{place} (bundle_id)", records.manifest.bundle_id))
        rows += [(f"{place}/{a.file}", a.sha256) for a in records.manifest.artifacts]
    return tuple((code(name), code(digest)) for name, digest in rows)


def _versions(run: RunRecords) -> tuple[tuple[Cell, ...], ...]:
    """Return each library's version once per distinct value, with the stages that used it."""
    stages: list[tuple[str, dict[str, str]]] = []
    if run.training is not None:
        stages.append(("train", run.training.versions))
    for records in run.splits:
        if records.manifest is not None:
            stages.append(("export", records.manifest.versions))
        if records.check is not None:
            stages.append(("check", records.check.versions))
        if records.bench is not None:
            stages.append(("bench", records.bench.machine.versions))
        if records.attack is not None:
            stages.append(("attack", records.attack.versions))
        stages += [("device", one.device.machine.versions) for one in records.devices]
    used: dict[tuple[str, str], dict[str, None]] = {}
    for stage, versions in stages:
        for library, version in versions.items():
            used.setdefault((library, version), {})[stage] = None
    return tuple(
        (text(library), text(version), text(", ".join(names)))
        for (library, version), names in sorted(used.items())
    )
