"""``run.py`` of a kit: verify it, check its artifacts here, measure them here, say what was found.

Exit codes as everywhere: 0 pass, 1 error, 2 a limit was not met or a measurement is INVALID.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.device.contents import Contents, read_contents
from benchmarks.device.latency import bench
from benchmarks.device.parity import check
from benchmarks.device.record_files import alone, step
from benchmarks.device.verdicts import bench_conditions, check_verdicts, measured_of
from benchmarks.speedup import speed_ratio
from benchmarks.timing import nearest_rank
from records.errors import EdgeveilError, OverwriteError
from records.progress import Progress
from runtime_check.machine import machine_facts, usable_cores

STEPS = ("check", "bench")


def main(root: Path, arguments: list[str] | None = None) -> int:
    """Run the steps that are asked for and return the exit code.

    Args:
        root: the unpacked kit.
        arguments: of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="run.py", description="Check and measure this kit here.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help="check, bench [default: both]")
    parser.add_argument("--records", type=Path, default=root / "records", help="where they go")
    parser.add_argument("--resume", action="store_true", help="keep the records that are there")
    parser.add_argument("--progress", action="store_true", help="print one line a step done")
    options = parser.parse_args(arguments)
    unknown = [one for one in options.steps if one not in STEPS]
    if unknown:
        parser.error(f"no such step: {unknown[0]}; use {' or '.join(STEPS)}")
    try:
        contents = read_contents(root)
        with alone(options.records, lambda: say("another run of this kit must end first")):
            _refuse_old_records(options.records, resume=options.resume)
            progress = _lines if options.progress else _quiet
            return _run(contents, options.steps or list(STEPS), options.records, progress)
    except EdgeveilError as error:
        say(f"run.py: {type(error).__name__}: {error}")
        return error.exit_code


def say(text: str) -> None:
    """Print a line; when nobody listens any more, go on in silence: the records are what counts."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end


def device_facts() -> dict[str, Any]:
    """Return what this device is: `machine_facts`, and the names of its system on a chip."""
    try:
        compatible = Path("/proc/device-tree/compatible").read_bytes()
    except OSError:
        compatible = b""
    soc = [name.decode("ascii", "replace") for name in compatible.split(b"\0") if name]
    return {"machine": machine_facts(), "soc": soc[:16], "host": platform.node()[:200]}


def _refuse_old_records(folder: Path, *, resume: bool) -> None:
    old = sorted(path.name for path in folder.glob("*.json"))
    if old and not resume:
        raise OverwriteError(
            f"{folder} has {', '.join(old)} already; give --records NEW, or --resume to finish "
            "that run"
        )


def _run(contents: Contents, steps: list[str], folder: Path, progress: Progress) -> int:
    facts, good = device_facts(), True
    machine = facts["machine"]
    say(f"{machine['board'] or machine['cpu_model']} ({machine['arch']}), {machine['os']}")
    if "check" in steps and contents.kit["sample"] is not None:
        record = step(
            folder / "check.json", contents.sha256, lambda: facts | check(contents, progress)
        )
        good = _say_check(contents, record) and good
    if "bench" in steps:
        good = _bench_all(contents, facts, folder, progress) and good
    return 0 if good else 2


def _bench_all(contents: Contents, facts: dict[str, Any], folder: Path, progress: Progress) -> bool:
    cores, good = usable_cores(), True
    for threads in dict.fromkeys(contents.kit["bench"]["threads"]):
        if threads > cores:
            say(f"bench with {threads} threads: skipped, only {cores} cores may be used here")
            continue

        def work(threads: int = threads) -> dict[str, Any]:
            return facts | bench(contents, threads, progress)

        record = step(folder / f"bench-{threads}.json", contents.sha256, work)
        good = _say_bench(contents, record) and good
    return good


def _say_check(contents: Contents, record: dict[str, Any]) -> bool:
    for skipped in record["skipped"]:
        say(f"check: {skipped['artifact']} skipped: {skipped['reason']}")
    verdicts = list(check_verdicts(contents.kit, record))
    for one in verdicts:
        measured = "no difference" if one.measured is None else f"{one.measured:.6g}"
        if one.name == "runs":
            measured = "did not run"
        verdict = "pass" if one.passed else "FAIL"
        say(
            f"check: {verdict} {one.artifact or 'input'} {one.name} {measured} ({one.bound} "
            f"{one.limit:g})"
        )
    return bool(record["rows"]) and all(one.passed for one in verdicts)


def _say_bench(contents: Contents, record: dict[str, Any]) -> bool:
    title = f"bench, threads {record['threads']}"
    for skipped in record["skipped"]:
        say(f"{title}: {skipped['artifact']} skipped: {skipped['reason']}")
    if not record["artifacts"]:
        return False
    conditions = bench_conditions(record["machine"], record)
    missed = [one for one in conditions if not one.met]
    measured = {one["artifact"]: measured_of(one) for one in record["artifacts"]}
    for name, one in measured.items():
        figures = [nearest_rank(one.samples, percent) / 1e6 for percent in (50, 90, 99)]
        say(f"{title}: {name} p50 {figures[0]:.3f} ms, p90 {figures[1]:.3f}, p99 {figures[2]:.3f}")
    for miss in missed:
        where = miss.where or "device"
        say(f"{title}: INVALID: {miss.name} {miss.value:g} > {miss.limit:g} ({where})")
    if not missed:
        _say_ratios(contents, measured, title)
    return not missed


def _say_ratios(contents: Contents, measured: dict[str, Any], title: str) -> None:
    recipe = contents.kit["bench"]
    kinds = {one["name"]: (one["format"], one["precision"]) for one in contents.edges}
    for fp32, slow in measured.items():
        for int8, fast in measured.items():
            if kinds[fp32] == (kinds[int8][0], "fp32") and kinds[int8][1] == "int8":
                found = speed_ratio(
                    slow.blocks, fast.blocks, confidence=recipe["confidence"], seed=recipe["seed"]
                )
                say(
                    f"{title}: {int8} against {fp32}: {found.ratio:.2f}× "
                    f"[{found.low:.2f}, {found.high:.2f}], {found.verdict}"
                )


def _lines(task: str, done: int, total: int) -> None:
    say(f"progress {done} {total} {task}")


def _quiet(task: str, done: int, total: int) -> None:
    """Report nothing."""
