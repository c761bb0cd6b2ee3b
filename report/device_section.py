"""Devices behind ssh in tables: what they are, whether they were cool and quiet, what came out."""

from __future__ import annotations

from collections.abc import Iterator

from records.bench import BenchRecord
from records.counted import counted
from records.device import DeviceCheck, DeviceGate, DeviceRecord, DeviceRow
from records.machine import MachineState
from records.parity import LsbDifference
from report.bench_section import (
    criteria_table,
    invalid_threads,
    latency_table,
    speedup_table,
    validity,
)
from report.document import Block, Cell, Heading, Paragraph, Section, Table, code, columns, text
from report.load import RunRecords
from report.load_devices import DeviceRecords
from report.units import NONE, all_gates, at_least_percent, number, size

#: The Raspberry Pi firmware's word, now; the same 16 bits higher: since boot.
_THROTTLED = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_NOT_TOLD = "not told there"


def device_sections(run: RunRecords) -> tuple[Section, ...]:
    """Return one section when anything ran on a device, else none."""
    blocks: list[Block] = []
    for split in run.splits:
        for device in split.devices:
            blocks.append(Heading(f"{split.split}, {device.name}"))
            blocks += _blocks(device)
    if not blocks:
        return ()
    return (Section("devices", "On devices", tuple(blocks)),)


def throttling(state: MachineState) -> str:
    """Return the firmware's signs of throttling in words."""
    bits = state.throttled_bits
    if bits is None:
        events = state.throttle_count
        return _NOT_TOLD if events is None else f"{counted(events, 'event')} since boot"
    now = [word for k, word in enumerate(_THROTTLED) if bits >> k & 1]
    once = [word for k, word in enumerate(_THROTTLED) if bits >> (16 + k) & 1]
    told = [f"now: {', '.join(now)}"] if now else []
    told += [f"since boot: {', '.join(once)}"] if once else []
    return "; ".join(told) or "none"


def _blocks(records: DeviceRecords) -> Iterator[Block]:
    yield _facts(records.device)
    if records.check is None:
        yield Paragraph("The check was not run there.", "muted")
    else:
        yield from _check(records.check)
    if records.bench is None:
        yield Paragraph("Latency was not measured there.", "muted")
    else:
        yield from _bench(records.bench)
    yield from _skips(records)


def _bench(record: BenchRecord) -> Iterator[Block]:
    yield validity(record)
    if record.latency:
        yield latency_table(record, invalid_threads(record))
    if any(one.timing.ratio is not None for one in record.speedups):
        yield speedup_table(record)
    if record.runs:
        yield criteria_table(record)


def _facts(record: DeviceRecord) -> Table:
    machine, timing = record.machine, record.timing
    states = [state for state in (timing.before, timing.after) if state is not None]
    rows = {
        "Reached as": record.destination,
        "Board": machine.board or NONE,
        "SoC": ", ".join(record.soc) or _NOT_TOLD,
        "CPU": f"{machine.cpu_model}; {machine.arch}; {' '.join(machine.isa) or 'no flags told'}",
        "Cores": f"{machine.cores} of {machine.cores_online} usable",
        "Highest frequency": number(machine.max_frequency_mhz, 0, "MHz"),
        "Governor": ", ".join(machine.governors) or _NOT_TOLD,
        "Memory": size(machine.memory_bytes),
        "Temperatures, before → after": _temperatures(states),
        "Throttling, before → after": " → ".join(map(throttling, states)) or "not measured",
        "Emulated": machine.emulated or "no",
        "System": f"{machine.os}, kernel {machine.kernel}",
        "Python": machine.python,
    }
    return Table(
        caption="The device, by its own word",
        columns=columns("What", "Value"),
        rows=tuple((text(name), text(value)) for name, value in rows.items()),
    )


def _temperatures(states: list[MachineState]) -> str:
    sensors = dict.fromkeys(name for state in states for name in state.temperatures_c)
    if not sensors:
        return _NOT_TOLD if states else "not measured"
    return "; ".join(
        f"{name} " + " → ".join(number(s.temperatures_c.get(name), 1, "°C") for s in states)
        for name in sensors
    )


def _check(record: DeviceCheck) -> Iterator[Block]:
    failed = [gate for gate in record.gates if not gate.passed]
    if not record.artifacts:
        yield Paragraph("No artifact ran there: the check failed.", "bad")
    elif failed:
        named = "; ".join(map(_gate, failed))
        yield Paragraph(f"{len(failed)} of {len(record.gates)} gates failed there: {named}.", "bad")
    else:
        yield Paragraph(f"{all_gates(len(record.gates))} passed there.", "good")
    yield Table(
        caption=(
            f"Boundary of {counted(record.images, 'victim')}: identical, within 1 LSB, largest "
            "difference in LSB; FP32 edges: parity_sqnr_db"
        ),
        columns=columns(
            "Artifact", "Mode there", ">Against eager INT8", "Host's mode", ">Against the host"
        ),
        rows=tuple(map(_row, record.artifacts)),
        note="Eager INT8 ran on the host that made the kit.",
    )


def _gate(gate: DeviceGate) -> str:
    measured = NONE if gate.measured is None else f"{gate.measured:g}"
    return f"{gate.name} of {gate.artifact or 'the input'} {measured}, {gate.bound} {gate.limit:g}"


def _row(row: DeviceRow) -> tuple[Cell, ...]:
    if row.failure is not None:
        failure = text(f"did not run: {row.failure}", "bad")
        return (
            code(row.artifact),
            text(row.mode),
            failure,
            text(row.host_mode or NONE),
            text(NONE),
        )
    host = _lsb(row.from_host)
    if row.max_abs is not None:
        sqnr = row.parity_sqnr_db
        host = text("identical" if sqnr is None else number(sqnr, 1, "dB"))
    return (
        code(row.artifact),
        text(row.mode),
        _lsb(row.from_eager),
        text(row.host_mode or NONE),
        host,
    )


def _lsb(lsb: LsbDifference | None) -> Cell:
    if lsb is None:
        return text(NONE)
    identical = at_least_percent(lsb.share_identical, 2)
    return text(f"{identical}, {at_least_percent(lsb.share_within_1_lsb, 2)}, {lsb.max_lsb}")


def _skips(records: DeviceRecords) -> Iterator[Block]:
    skipped = [one for r in (records.check, records.bench) if r is not None for one in r.skipped]
    named = dict.fromkeys(
        f"{one.artifact or counted(one.threads or 0, 'thread')} ({one.reason})" for one in skipped
    )
    if named:
        yield Paragraph(f"Skipped: {'; '.join(named)}.", "muted")
