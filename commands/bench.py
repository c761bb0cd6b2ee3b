"""``edgeveil bench``: size and latency of a bundle's artifacts on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.plain_table import plain_table
from commands.progress_bars import progress_bars
from commands.recipe_options import force_option, json_option
from commands.target_option import (
    beside,
    python_option,
    ssh_config_option,
    target_cache_option,
    target_option,
)
from records.counted import counted

if TYPE_CHECKING:
    from rich.console import Console

    from export.bundle import Bundle
    from records.bench import BenchRecord, Latency, MeasuredRun, Startup
    from records.parity import RuntimeName
    from records.recipe import BenchRecipe
    from runtime_check.targets.target import Target

_INVALID = "[bold red]INVALID[/bold red]"


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--threads", metavar="N,…", help="Thread counts  [default: the bundle's recipe]")
@click.option("--batch-size", type=click.IntRange(min=1), help="[default: the bundle's recipe]")
@click.option(
    "--runtime",
    type=click.Choice(["onnx", "ort", "lite", "executorch", "litert", "all"]),
    default="all",
    show_default=True,
    help="onnx: ONNX Runtime. ort: the same from .ort files. lite: TorchScript Lite.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The record  [default: bench.json or bench-TARGET.json beside the bundle's folder]",
)
@click.option("--strict", is_flag=True, help="Exit 2 when a run is INVALID.")
@target_option
@target_cache_option
@python_option
@ssh_config_option
@force_option
@json_option
def command(
    bundle_path: Path,
    threads: str | None,
    batch_size: int | None,
    runtime: str,
    out: Path | None,
    strict: bool,
    target_name: str,
    target_cache: Path | None,
    device_python: str | None,
    ssh_config: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Measure the artifacts of BUNDLE here: bytes, start-up, memory, latency, speed-up.

    FP32 and INT8 are interleaved in one run for each thread count. A noisy or throttled run is
    marked INVALID and gives no speed-up. Artifacts whose runtime is not installed are skipped with
    the reason. Exits 3 when no latency could be measured at all.

    On an emulated target it counts instructions per inference instead, in two fresh processes, and
    gives no latency: exits 2 when the two differ by more than 0.1 %. On an ssh target a kit
    measures latencies there, and is removed.
    """
    from benchmarks.kit.measure import measure_on_device
    from benchmarks.latency import RUNTIMES, bench_bundle
    from export.bundle import load_bundle
    from records import codec, files
    from records.errors import InputError
    from records.parity import SPOKEN_RUNTIMES
    from runtime_check.targets.open_target import opened
    from runtime_check.targets.ssh import Ssh, is_ssh, parse_destination

    record_path = out if out is not None else beside(bundle_path, "bench", target_name, ".json")
    runtimes = tuple(name for name in RUNTIMES if runtime in ("all", SPOKEN_RUNTIMES[name]))
    if is_ssh(target_name) and runtime != "all":
        raise InputError("a device runs what its packages can; leave --runtime out")
    if target_name != "host" and not is_ssh(target_name):
        _refuse_overwriting((record_path,), force=force)
        _refuse_latency_options(threads, batch_size)
        bundle = load_bundle(bundle_path)
        with opened(target_name, target_cache) as target:
            return _count(bundle, target, runtimes, record_path, force=force, as_json=as_json)
    samples = record_path.with_name(f"{record_path.stem}-samples.json")
    _refuse_overwriting((record_path, samples), force=force)
    bundle = load_bundle(bundle_path)
    recipe = _recipe_with(bundle.manifest.recipe.bench, threads, batch_size)
    with progress_bars() as progress:
        if is_ssh(target_name):
            ssh = Ssh(parse_destination(target_name), ssh_config)
            found = measure_on_device(
                target_name,
                ssh,
                bundle,
                recipe,
                python=device_python,
                samples_file=samples.name,
                progress=progress,
            )
            record = found.record
            files.write_bytes(samples, found.samples, replace=force)
        else:
            record = bench_bundle(
                bundle, recipe, runtimes=runtimes, samples=samples, progress=progress
            )
    codec.write(record_path, record, replace=force)
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        print_bench(record, record_path)
    return _exit_code(record, strict=strict)


def _refuse_latency_options(threads: str | None, batch_size: int | None) -> None:
    from records.errors import InputError

    if threads is not None or batch_size is not None:
        raise InputError(
            "an emulated target has no latency: instructions are counted with one thread and one "
            "image; leave --threads and --batch-size out"
        )


def _count(
    bundle: Bundle,
    target: Target | None,
    runtimes: tuple[RuntimeName, ...],
    path: Path,
    *,
    force: bool,
    as_json: bool,
) -> int:
    from benchmarks.instructions import count_instructions
    from commands.instruction_table import print_instructions
    from records import codec
    from records.errors import GateFailedError, UnsupportedHereError

    if target is None or not target.emulated:
        raise UnsupportedHereError("instructions are counted on emulated targets only")
    with progress_bars() as progress:
        record = count_instructions(
            bundle,
            target,
            runtimes=runtimes,
            seed=bundle.manifest.recipe.bench.seed,
            progress=progress,
        )
    codec.write(path, record, replace=force)
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        print_instructions(record, path)
    if not record.passed:
        apart = [one.artifact for one in record.artifacts if not one.repeatable]
        raise GateFailedError(
            f"two runs of {', '.join(apart)} are more than {record.spread_limit:.1%} apart; the "
            "counts are not repeatable"
        )
    return 0


def _exit_code(record: BenchRecord, *, strict: bool) -> int:
    from records.errors import GateFailedError, UnsupportedHereError

    if not record.runs:
        reasons = "; ".join(dict.fromkeys(skip.reason for skip in record.skipped))
        raise UnsupportedHereError(f"no latency could be measured here: {reasons}")
    if strict and not record.valid:
        raise GateFailedError(
            f"the measuring was INVALID ({_failed_criteria(record)}); close other programs, let "
            "the machine cool, and measure again"
        )
    return 0


def _refuse_overwriting(paths: tuple[Path, ...], *, force: bool) -> None:
    from records.errors import OverwriteError

    for path in paths:
        if path.exists() and not force:
            raise OverwriteError(f"{path} already exists; add --force or choose another --out")


def _recipe_with(recipe: BenchRecipe, threads: str | None, batch_size: int | None) -> BenchRecipe:
    from msgspec.structs import replace

    if threads is not None:
        recipe = replace(recipe, threads=_thread_counts(threads))
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    return recipe


def _thread_counts(text: str) -> tuple[int, ...]:
    from records.errors import InputError

    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise InputError(f"--threads {text!r} is not a list such as 1,2,4")
    return tuple(dict.fromkeys(int(part) for part in parts))


def print_bench(record: BenchRecord, path: Path) -> None:
    """Print a record of ``bench``, and where it was written."""
    from rich.console import Console

    console = Console()
    machine = record.machine
    console.print(
        f"{machine.board or machine.cpu_model} ({machine.arch}), {machine.cores} of "
        f"{machine.cores_online} cores, {' '.join(machine.isa)}; split {record.split}, "
        f"batch {record.recipe.batch_size}"
    )
    for note in record.notes:
        console.print(f"note: {note}", markup=False)
    _print_sizes(record, console)
    _print_wire(record, console)
    if record.startup:
        _print_startup(record, console)
    for run in record.runs:
        _print_run(record, run, console)
    for skip in record.skipped:
        what = skip.artifact if skip.artifact is not None else counted(skip.threads or 0, "thread")
        console.print(f"skipped {what}: {skip.reason}", markup=False)
    console.print(f"record: {path}", markup=False)


def _print_sizes(record: BenchRecord, console: Console) -> None:
    from rich.table import Table

    table = Table(title="Size in bytes; FP32 / INT8 of the same runtime")
    table.add_column("artifact", no_wrap=True)
    for column in ("weights", "file", "weights ratio", "file ratio"):
        table.add_column(column, justify="right")
    ratios = {ratio.int8: ratio for ratio in record.size_ratios}
    for size in record.sizes:
        ratio = ratios.get(size.artifact)
        weight = None if ratio is None else ratio.weight_ratio
        table.add_row(
            size.artifact,
            f"{size.weight_bytes:,}",
            f"{size.file_bytes:,}",
            "" if weight is None else f"{weight:.2f}×",
            "" if ratio is None else f"{ratio.file_ratio:.2f}×",
        )
    console.print(table)


def _print_wire(record: BenchRecord, console: Console) -> None:
    wire = record.wire
    console.print(
        f"wire, bytes per image: {wire.packed_bytes:,} at {counted(wire.bits, 'bit')}, "
        f"{wire.raw_bytes:,} as uint8 {wire.shape}, {wire.float_bytes:,} FP32, "
        f"the image itself {wire.image_bytes:,}"
    )
    if wire.compressed is None or wire.image_compressed is None:
        console.print(f"compressed: not measured ({wire.not_measured})", markup=False)
        return
    console.print(
        f"compressed, mean of {counted(wire.compressed.images, 'victim')} "
        f"({wire.compressed.method}): {wire.compressed.mean:,.0f}; the image itself "
        f"{wire.image_compressed.mean:,.0f}"
    )


def _print_startup(record: BenchRecord, console: Console) -> None:
    from rich.table import Table

    table = Table(title="Start-up, one fresh process each; memory added by load and runs")
    table.add_column("artifact", no_wrap=True)
    for column in ("load, ms", "first inference, ms", "added, MB", "peak, MB"):
        table.add_column(column, justify="right")
    for startup in record.startup:
        table.add_row(startup.artifact, *_startup_cells(startup))
    console.print(table)


def _startup_cells(startup: Startup) -> tuple[str, ...]:
    from rich.markup import escape

    timing = startup.timing
    if timing is None:
        return (escape(f"failed: {startup.failure}"),)
    return (
        f"{timing.load_ms:.2f}",
        f"{timing.first_inference_ms:.2f}",
        f"{timing.added_bytes / 1e6:.1f}",
        f"{timing.peak_bytes / 1e6:.1f}",
    )


def _print_run(record: BenchRecord, run: MeasuredRun, console: Console) -> None:
    from rich.table import Table

    mark = "" if run.timing.valid else f" {_INVALID}"
    table = Table(title=f"Latency of one batch in ms, nearest-rank; threads {run.threads}{mark}")
    table.add_column("artifact", no_wrap=True)
    for column in ("p50", "p90", "p95", "p99", "mean", "runs"):
        table.add_column(column, justify="right")
    for latency in record.latency:
        if latency.threads == run.threads:
            table.add_row(latency.artifact, *_latency_cells(latency))
    console.print(table)
    if run.timing.valid:
        _print_speedups(record, run, console)
    else:
        _print_failed(run, console)


def _latency_cells(latency: Latency) -> tuple[str, ...]:
    timing = latency.timing
    figures = (timing.p50_ms, timing.p90_ms, timing.p95_ms, timing.p99_ms, timing.mean_ms)
    return (*(f"{figure:.3f}" for figure in figures), f"{timing.samples:,}")


def _print_speedups(record: BenchRecord, run: MeasuredRun, console: Console) -> None:
    share = f"{record.recipe.confidence:.0%}"
    table = plain_table(f"Speed-up: median FP32 / median INT8, {share}; threads {run.threads}")
    for column in ("INT8", "against"):
        table.add_column(column, no_wrap=True)
    for column in ("ratio", "interval"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    speedups = [up for up in record.speedups if up.threads == run.threads]
    notes = list(dict.fromkeys(up.note for up in speedups if up.note is not None))
    for up in speedups:
        timing = up.timing
        mark = "" if up.note is None else f" ({notes.index(up.note) + 1})"
        table.add_row(
            up.int8,
            up.fp32 + mark,
            "" if timing.ratio is None else f"{timing.ratio:.2f}×",
            "" if timing.low is None else f"{timing.low:.2f}–{timing.high:.2f}",
            timing.verdict,
        )
    console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"({number}) {note}")


def _print_failed(run: MeasuredRun, console: Console) -> None:
    console.print(f"threads {run.threads}: {_INVALID}, so no speed-up is given")
    for criterion in run.timing.criteria:
        if not criterion.met:
            where = "" if criterion.where is None else f" ({criterion.where})"
            console.print(
                f"  {criterion.name}: {criterion.value:.3g}, limit {criterion.limit:g}{where}"
            )


def _failed_criteria(record: BenchRecord) -> str:
    failed = (c.name for run in record.runs for c in run.timing.criteria if not c.met)
    return ", ".join(dict.fromkeys(failed))
