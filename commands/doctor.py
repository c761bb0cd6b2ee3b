"""``edgeveil doctor``: which runtimes and CPU features are here, and what will be skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from commands.progress_bars import progress_bars
from commands.recipe_options import json_option

if TYPE_CHECKING:
    from rich.console import Console

    from records.doctor import DoctorRecord

_YES = "[green]yes[/green]"
_NO = "[yellow]no[/yellow]"
_STATES = {"ready": _YES}


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Say which runtimes and CPU features are here and what will be skipped.

    Each runtime runs a small program with a known answer. Touches no network. Exits 3 when ONNX
    Runtime does not work here: nothing else would.
    """
    from records import codec
    from records.errors import UnsupportedHereError
    from runtime_check.doctor import examine

    with progress_bars() as progress:
        record = examine(progress=progress)
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print_record(record)
    if not record.usable:
        reason = next(r.detail for r in record.runtimes if r.runtime == "ort")
        raise UnsupportedHereError(
            f"ONNX Runtime does not work here ({reason}); run: pip install onnxruntime"
        )


def _print_record(record: DoctorRecord) -> None:
    from rich.console import Console

    console = Console()
    _print_machine(record, console)
    _print_runtimes(record, console)
    _print_verbs(record, console)
    _print_sources(record, console)
    _print_targets(record, console)
    for text in record.skipped:
        console.print(f"skipped: {text}", markup=False)
    if record.install is not None:
        console.print(f"for what is missing, in the checkout: {record.install}", markup=False)


def _print_machine(record: DoctorRecord, console: Console) -> None:
    machine = record.machine
    console.print(f"CPU      {machine.board or machine.cpu_model} ({machine.arch})")
    console.print(f"cores    {machine.cores} usable of {machine.cores_online}")
    console.print(f"features {' '.join(machine.isa) or 'not told by this system'}")
    console.print(f"system   {machine.os}, {machine.kernel}, {machine.python}")
    for text in record.follows:
        console.print(f"  → {text}")


def _print_runtimes(record: DoctorRecord, console: Console) -> None:
    from rich.table import Table

    names = {
        "ort": "ONNX Runtime",
        "lite": "TorchScript Lite",
        "executorch": "ExecuTorch",
        "litert": "LiteRT",
    }
    table = Table("runtime", "version", "works", "detail", title="Runtimes")
    for runtime in record.runtimes:
        mark = _YES if runtime.works else _NO
        table.add_row(names[runtime.runtime], runtime.version or "–", mark, runtime.detail)
    console.print(table)


def _print_verbs(record: DoctorRecord, console: Console) -> None:
    from rich.table import Table

    table = Table("verb", "here", "missing", title="Verbs")
    for verb in record.verbs:
        table.add_row(verb.verb, _NO if verb.missing else _YES, ", ".join(verb.missing))
    console.print(table)


def _print_sources(record: DoctorRecord, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("--data", "here", "detail", title="Data sources")
    for source in record.sources:
        mark = _STATES.get(source.state, f"[yellow]{source.state}[/yellow]")
        table.add_row(escape(source.source), mark, escape(source.detail))
    console.print(table)


def _print_targets(record: DoctorRecord, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("--target", "here", "detail", title="Emulated ARM targets")
    for state in record.targets:
        lacking: dict[str, list[str]] = {}
        for part in state.parts:
            if not part.ready:
                lacking.setdefault(part.detail, []).append(part.part)
        said = [f"{', '.join(names)} {what}" for what, names in lacking.items()]
        detail = "; ".join(said) or "complete"
        table.add_row(state.target, _YES if state.ready else _NO, escape(detail))
    console.print(table)
