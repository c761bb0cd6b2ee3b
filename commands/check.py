"""``edgeveil check``: every artifact in its real runtime against eager INT8."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.export_extra import require_export_extra
from commands.plain_table import plain_table
from commands.progress_bars import progress_bars
from commands.recipe_options import force_option, json_option
from commands.target_option import (
    beside,
    python_option,
    skipped_lines,
    ssh_config_option,
    target_cache_option,
    target_option,
    target_sentence,
)
from records.counted import counted

if TYPE_CHECKING:
    from rich.console import Console

    from records.parity import ArtifactCheck, CheckRecord, Gate

#: Short enough for a terminal of 80 columns; the record has the full figures.
_COLUMNS = ("max\nLSB", "≤ 1 LSB\n%", "SQNR\ndB", "top-1\n%", "agree\n%")
_SHORT_MODES = {"optimizations-off": "opt. off"}


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", help="Other images than the manifest's: photos | npz:FILE | …")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Only the first N victims  [default: all; 200 on an emulated target]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The record  [default: check.json or check-TARGET.json beside the bundle's folder]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of every runtime.",
)
@target_option
@target_cache_option
@python_option
@ssh_config_option
@force_option
@json_option
def command(
    bundle_path: Path,
    data: str | None,
    limit: int | None,
    out: Path | None,
    threads: int,
    target_name: str,
    target_cache: Path | None,
    device_python: str | None,
    ssh_config: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run every artifact of BUNDLE in its real runtime and compare it with eager INT8.

    The victims are those of the manifest, proven by their hash; the limits are those of its
    recipe. On a target the artifacts run there and are also compared with the host's. Exits 2 when
    a gate failed; the record and the evidence are written all the same.
    """
    require_export_extra("check", ("torch", "torchvision", "onnx", "safetensors"))
    from export.bundle import load_bundle
    from records import codec
    from records.errors import GateFailedError
    from runtime_check.check import check_bundle
    from runtime_check.gates import failure_sentence
    from runtime_check.targets.open_target import default_limit, opened
    from runtime_check.victims import victims_for

    record_path = out if out is not None else beside(bundle_path, "check", target_name, ".json")
    evidence = record_path.with_name(f"{record_path.stem}-evidence.npz")
    _refuse_overwriting((record_path, evidence), force=force)
    bundle = load_bundle(bundle_path)
    with (
        opened(target_name, target_cache, ssh_config=ssh_config, python=device_python) as target,
        progress_bars() as progress,
    ):
        limit = default_limit(target) if limit is None else limit
        record = check_bundle(
            bundle,
            victims_for(bundle.manifest, source=data, limit=limit),
            progress=progress,
            threads=threads,
            evidence=evidence,
            replace=force,
            target=target,
        )
    codec.write(record_path, record, replace=force)
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print_record(record, record_path)
    if not record.passed:
        where = "" if record.evidence is None else f"; evidence in {evidence}"
        raise GateFailedError(failure_sentence(record) + where)


def _refuse_overwriting(paths: tuple[Path, ...], *, force: bool) -> None:
    from records.errors import OverwriteError

    for path in paths:
        if path.exists() and not force:
            raise OverwriteError(f"{path} already exists; add --force or choose another --out")


def _print_record(record: CheckRecord, path: Path) -> None:
    from rich.console import Console

    console = Console()
    victims = record.victims
    kind = "the manifest's victims" if victims.is_manifest_set else "not the manifest's victims"
    if victims.first_of is not None:
        kind = f"the first of {victims.first_of:,}"
    say = partial(console.print, soft_wrap=True)
    say(f"{counted(victims.count, 'image')} of {victims.source} ({kind}), split {record.split}")
    if record.target is not None:
        say(target_sentence(record.target), markup=False)
    say(f"ONNX Runtime ran in mode {record.ort.mode}: {record.ort.reason}.")
    _print_artifacts(record, console)
    for line in skipped_lines(record.skipped):
        say(line, markup=False)
    _print_host(record, console)
    _print_agreement(record, console)
    _print_gates(record, console)
    for line in _operator_lines(record):
        say(line, markup=False)
    say(f"record: {path}")


def _print_artifacts(record: CheckRecord, console: Console) -> None:
    table = plain_table("Difference from eager INT8, and top-1 through the FP32 server half")
    table.add_column("artifact", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    # The one column that may go on below: points in two digits are rare.
    table.add_column("top-1 lost\npoints", justify="right")
    for row in record.artifacts:
        mode = _mode(row.mode) + ("" if row.gated or row.reference else "*")
        table.add_row(row.artifact, mode, *_difference_cells(row), *_accuracy_cells(row))
    console.print(table)
    console.print(
        "eager_int8_graph is the reference; a mode with * is run to compare, ungated. agree: same "
        "class as eager INT8"
    )


def _operator_lines(record: CheckRecord) -> list[str]:
    return [
        f"{one.runtime} computes {one.operator} at {one.node} otherwise: "
        f"{one.differing / one.values:.3%} of its values, by {one.max_lsb} at most"
        for one in record.operators
    ]


def _print_host(record: CheckRecord, console: Console) -> None:
    if record.target is None:
        return
    table = plain_table("There against this host, and this host against eager INT8, in LSB")
    for column in ("artifact", "mode", "mode\nhere"):
        table.add_column(column, no_wrap=True)
    for between in ("there\nhere", "here\neager"):
        for column in (f"{between}\nmax", "equal\n%", "≤ 1\n%"):
            table.add_column(
                column,
                justify="right",
                no_wrap=True,
            )
    for row in record.host:
        cells = [_mode(row.mode), _mode(row.host_mode)]
        for lsb in (row.from_host, row.host_from_eager):
            cells += [
                str(lsb.max_lsb),
                _percent(lsb.share_identical, 2),
                _percent(lsb.share_within_1_lsb, 2),
            ]
        table.add_row(row.artifact, *cells)
    console.print(table)


def _mode(mode: str) -> str:
    return _SHORT_MODES.get(mode, mode)


def _difference_cells(row: ArtifactCheck) -> tuple[str, ...]:
    if row.lsb is None:
        return ("", "", "")
    sqnr = row.lsb.parity_sqnr_db
    return (
        str(row.lsb.max_lsb),
        _percent(row.lsb.share_within_1_lsb, 2),
        "equal" if sqnr is None else f"{sqnr:.1f}",
    )


def _accuracy_cells(row: ArtifactCheck) -> tuple[str, ...]:
    accuracy = row.accuracy
    drop = accuracy.drop_points
    return (
        _percent(accuracy.top1, 1),
        "" if accuracy.agreement is None else _percent(accuracy.agreement, 1),
        "" if drop is None else f"{drop.estimate:.1f} [{drop.low:.1f}, {drop.high:.1f}]",
    )


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f}"


def _print_agreement(record: CheckRecord, console: Console) -> None:
    table = plain_table("FP32 edges: parity SQNR, largest difference")
    for column in ("artifact", "against"):
        table.add_column(column, no_wrap=True)
    for column in ("SQNR, dB", "largest"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in (*record.fp32_parity, *record.host_fp32):
        sqnr = "equal" if pair.parity_sqnr_db is None else f"{pair.parity_sqnr_db:.1f}"
        table.add_row(pair.artifact, pair.reference, sqnr, f"{pair.max_abs:.3g}")
    if table.row_count:
        console.print(table)
    for fusion in record.fusion:
        console.print(
            f"{fusion.artifact}: {fusion.fused} of {counted(fusion.convolutions, 'convolution')} "
            "became QLinearConv in ONNX Runtime"
        )


def _print_gates(record: CheckRecord, console: Console) -> None:
    table = plain_table("Gates, fixed in the recipe before the check")
    for column in ("gate", "artifact", "mode"):
        table.add_column(column, no_wrap=True)
    for column in ("measured", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for gate in record.gates:
        verdict = "[green]pass[/green]" if gate.passed else "[bold red]FAIL[/bold red]"
        limit = f"{'≤' if gate.bound == 'at most' else '≥'} {gate.limit:g}"
        mode = _mode(gate.mode)
        table.add_row(gate.name, gate.artifact, mode, _measured(gate), limit, verdict)
    console.print(table)


def _measured(gate: Gate) -> str:
    return "equal" if gate.measured is None else f"{gate.measured:.5g}"
