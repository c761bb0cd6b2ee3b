"""The verdict table that ends ``edgeveil run``: one line per split and artifact, 100 columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from records.attack import AttackRecord
from records.bench import BenchRecord, SpeedUp
from records.manifest import Artifact
from records.parity import ArtifactCheck
from report.bench_section import invalid_threads
from report.claims import int8_pairs, shipped_int8
from report.leaks import baseline_psnr_db, find_artifact, floor_db, mean_psnr_db
from report.load import SplitRecords, load_run
from report.units import NONE, at_least_percent, number, percent, size, times

_STYLES = {"HOLDS": "green", "DENIED": "red", "INCONCLUSIVE": "yellow"}
_SPEED_WORDS = {
    "faster": "faster",
    "slower": "slower",
    "no speed-up shown": "no gain",
    "not given": "INVALID",
}


@dataclass(frozen=True)
class _Row:
    file: str
    latency: str
    top1: str
    parity: str
    leak: str
    verdict: str


def summary_table(run_folder: Path) -> Table:
    """Return the verdict table of a run, for ``rich`` to print within 100 columns.

    Two lines per split and INT8 edge artifact: file size over FP32 / INT8 ratio; p50 in ms on the
    smallest thread count over the speed-up or its verdict; top-1 over its change in points;
    largest difference from eager INT8 in LSB over the share within 1; recon_psnr_db of FP32 → A0
    → A1 in dB over the floor; the verdict. A stage that was not run shows a dash.

    Args:
        run_folder: as ``edgeveil run`` leaves it.

    Raises:
        InputError: there is no record at all.
        RecordError: a record is malformed, or records of different bundles are mixed.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("INT8 artifact", overflow="fold")
    table.add_column("file\nFP32/INT8", justify="right", no_wrap=True)
    table.add_column("p50\nspeed", justify="right", no_wrap=True)
    table.add_column("top-1\nchange", justify="right", no_wrap=True)
    table.add_column("max LSB\n≤ 1 LSB", justify="right", no_wrap=True)
    table.add_column("recon_psnr_db (dB)\nFP32 → A0 → A1", justify="right")
    table.add_column("verdict", no_wrap=True)
    for records in load_run(run_folder).splits:
        _add_split(table, records)
    return table


def summary_notes(run_folder: Path) -> tuple[str, ...]:
    """Return what must be said of each split's verdicts, such as that FP32 itself leaks little.

    Args:
        run_folder: as ``edgeveil run`` leaves it.

    Raises:
        InputError: there is no record at all.
        RecordError: a record is malformed, or records of different bundles are mixed.
    """
    return tuple(
        f"{records.split}: {records.attack.note}"
        for records in load_run(run_folder).splits
        if records.attack is not None and records.attack.note is not None
    )


def _add_split(table: Table, records: SplitRecords) -> None:
    table.add_row(Text(records.split, style="bold"))
    for name in _names(records):
        row = _row(records, name)
        table.add_row(
            Text(f"  {name}"),
            row.file,
            row.latency,
            row.top1,
            row.parity,
            row.leak,
            Text(row.verdict, style=_STYLES.get(row.verdict, "dim")),
        )
    table.add_section()


def _names(records: SplitRecords) -> list[str]:
    """Return the INT8 edge artifacts, from whichever record is there."""
    if records.manifest is not None:
        return [artifact.name for artifact, _ in int8_pairs(records.manifest)]
    names: list[str] = []
    if records.check is not None:
        names += [a.artifact for a in shipped_int8(records.check)]
    if records.attack is not None:
        names += [v.artifact for v in records.attack.verdicts]
    if records.bench is not None:
        names += [s.artifact for s in records.bench.sizes if _is_int8_edge(s.role, s.precision)]
    return list(dict.fromkeys(names))


def _is_int8_edge(role: str, precision: str) -> bool:
    return role == "edge" and precision == "int8"


def _row(records: SplitRecords, name: str) -> _Row:
    pairs = [] if records.manifest is None else int8_pairs(records.manifest)
    checks = [] if records.check is None else shipped_int8(records.check)
    checked = next((c for c in checks if c.artifact == name), None)
    return _Row(
        file=_file(next((p for p in pairs if p[0].name == name), None)),
        latency=NONE if records.bench is None else _latency(records.bench, name),
        top1=NONE if checked is None else _top1(checked),
        parity=NONE if checked is None else _parity(checked, _wire_bits(records)),
        leak=NONE if records.attack is None else _leak(records.attack, name),
        verdict="not run" if records.attack is None else _verdict(records.attack, name),
    )


def _file(pair: tuple[Artifact, Artifact] | None) -> str:
    if pair is None:
        return NONE
    int8, full = pair
    return f"{size(int8.size)}\n{times(full.size / int8.size)}"


def _latency(record: BenchRecord, name: str) -> str:
    rows = [x for x in record.latency if x.artifact == name]
    if not rows:
        return NONE
    first = min(rows, key=lambda x: x.threads)
    p50 = number(first.timing.p50_ms, 2 if first.timing.p50_ms < 100 else 0, "ms")
    if first.threads in invalid_threads(record):
        return f"{p50}\nINVALID"
    speedup = _speedup(record, name, first.threads)
    return p50 if speedup is None else f"{p50}\n{_SPEED_WORDS[speedup.timing.verdict]}"


def _speedup(record: BenchRecord, name: str, threads: int) -> SpeedUp | None:
    return next(
        (s for s in record.speedups if s.int8 == name and s.threads == threads and s.same_runtime),
        None,
    )


def _top1(checked: ArtifactCheck) -> str:
    drop = checked.accuracy.drop_points
    top1 = _plain(percent(checked.accuracy.top1, 1))
    # The drop is a loss: 0.4 lost is printed as −0.4, a gain as +.
    return top1 if drop is None else f"{top1}\n{number(-drop.estimate, 1, signed=True)}"


def _parity(checked: ArtifactCheck, bits: int) -> str:
    lsb = checked.lsb
    if lsb is None:
        return NONE
    if bits < 8:
        # At 1 bit no two values differ by more than one LSB.
        return f"{lsb.max_lsb}\n{_plain(at_least_percent(lsb.share_identical, 1))} equal"
    return f"{lsb.max_lsb}\n{_plain(at_least_percent(lsb.share_within_1_lsb, 1))}"


def _wire_bits(records: SplitRecords) -> int:
    return 8 if records.manifest is None else records.manifest.wire.bits


def _leak(record: AttackRecord, name: str) -> str:
    artifact = find_artifact(record, name)
    if artifact is None:
        return NONE
    values = [
        baseline_psnr_db(record),
        mean_psnr_db(artifact, "A0"),
        mean_psnr_db(artifact, "A1"),
    ]
    return " → ".join(number(v, 2) for v in values) + f"\nfloor {number(floor_db(record), 2)}"


def _verdict(record: AttackRecord, name: str) -> str:
    return next((v.verdict for v in record.verdicts if v.artifact == name), NONE)


def _plain(value: str) -> str:
    return value.replace("\u00a0%", "%")
