"""``edgeveil sweep``: split × boundary bits × attacker × seed, here or on a Dask cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.export_extra import require_export_extra
from commands.progress_bars import progress_bars
from commands.recipe_options import json_option, recipes_data_option
from records.counted import counted

if TYPE_CHECKING:
    from records.sweep import Candidate, Sweep

_COLOURS = {"HOLDS": "bold green", "DENIED": "bold red", "INCONCLUSIVE": "bold yellow"}


@click.command()
@click.argument("grid_path", metavar="GRID.toml", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Sweep folder  [default: runs/<grid's name>]"
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes on this machine  [default: all cores]"
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Dask scheduler, e.g. tcp://10.0.0.1:8786; its workers must see the sweep folder and the "
    "data under the same paths.",
)
@click.option(
    "--weights", metavar="FILE", help="Trained weights, used as they are: nothing is trained."
)
@recipes_data_option
@click.option("--replace", is_flag=True, help="Accept a changed grid: do again what it changes.")
@json_option
def command(
    grid_path: Path,
    out: Path | None,
    jobs: int | None,
    cluster: str | None,
    weights: str | None,
    data: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Attack every cell of GRID.toml; write sweep.json, a Pareto table and a page.

    Killed and started again, the sweep does what is missing and ends with the same records byte
    for byte. DENIED is a result, and so is lost accuracy: exits 2 only when a control, or the
    agreement of the artifacts with each other, failed in a cell.
    """
    require_export_extra("sweep")
    from records import codec
    from records.errors import GateFailedError
    from records.grid import read_grid

    # Read before the slow imports: a bad grid answers at once.
    grid = read_grid(grid_path, data=data, weights=weights)
    from pipeline.sweep import SweepOptions, run_sweep
    from pipeline.sweep_workers import workers

    folder = out if out is not None else Path("runs") / grid.name
    with workers(jobs, cluster) as crew, progress_bars() as progress:
        record = run_sweep(grid, folder, SweepOptions(replace=replace), crew, progress=progress)
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print_record(record, folder)
    if not record.gates_passed:
        raise GateFailedError(_failure(record, folder))


def _failure(record: Sweep, folder: Path) -> str:
    failed = [group for group in record.groups if not group.gates_passed]
    named = ", ".join(
        f"{g.split} at {counted(g.boundary_bits, 'bit')}, {g.attacker} "
        f"({', '.join(sorted({gate.name for gate in g.failed_gates}))})"
        for g in failed
    )
    return f"gates failed in {named}; see {folder / 'report' / 'report.html'}"


def _print_record(record: Sweep, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        # rich assumes 80 columns for a pipe or a log file.
        console = Console(width=140)
    table = Table(title="What each point sends, and what that leaks to the worst attacker")
    for column in ("split", "bits", "artifact"):
        table.add_column(column)
    for column in ("drop, points", "leak, dB", "wire, bytes", "file, bytes"):
        table.add_column(column, justify="right")
    for column in ("worst attacker", "verdict", "Pareto"):
        table.add_column(column)
    for row in record.candidates:
        table.add_row(*_row(row))
    console.print(table)
    seeds = sum(len(group.cells) for group in record.groups)
    console.print(
        f"{counted(seeds, 'cell')}. leak: reconstruction over the mean image; low is private. "
        "Pareto: no other row is as good in all four columns of figures and better in one."
    )
    console.print(f"record: {folder / 'sweep.json'}")
    console.print(f"report: {folder / 'report' / 'report.html'}")


def _row(row: Candidate) -> tuple[str, ...]:
    verdict = "baseline" if row.verdict is None else row.verdict
    colour = _COLOURS.get(verdict)
    return (
        row.split,
        "fp32" if row.boundary_bits is None else str(row.boundary_bits),
        row.artifact,
        "" if row.drop_points is None else f"{row.drop_points[0]:.2f}",
        f"{row.leak_db:.2f}",
        f"{row.wire_bytes:,}",
        f"{row.file_bytes:,}",
        row.leak_by,
        verdict if colour is None else f"[{colour}]{verdict}[/{colour}]",
        "●" if row.pareto else "",
    )
