"""``edgeveil device``: run a bundle on a device behind ssh, and bring its records back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.export_extra import require_export_extra
from commands.plain_table import plain_table
from commands.progress_bars import progress_bars
from commands.recipe_options import force_option, json_option
from commands.target_option import python_option, ssh_config_option
from records.counted import counted
from records.device import RECORD_NAME
from records.kit import KIT_VICTIMS

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.kit.on_device import DeviceRun
    from benchmarks.kit.remote import RemoteKit
    from records.device import DeviceCheck, DeviceRecord, DeviceRow
    from records.parity import LsbDifference

_FILES = (RECORD_NAME, "check.json", "bench.json", "bench-samples.json")


@click.group()
def command() -> None:
    """Check and measure a bundle on a device that ssh reaches, such as a Raspberry Pi.

    ssh is the system's own, with your own config and keys; it never asks for a password.
    """


@command.command()
@click.argument("url", metavar="ssh://[USER@]HOST[:PORT]")
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for device.json, check.json, bench.json and the raw samples.",
)
@click.option("--clean", is_flag=True, help="Leave nothing on the device.")
@click.option("--only", type=click.Choice(["check", "bench"]), help="One step  [default: both]")
@click.option("--data", help="Other images than the manifest's: photos | npz:FILE | …")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=KIT_VICTIMS,
    show_default=True,
    help="Victims that go to the device, the first of the set.",
)
@python_option
@ssh_config_option
@force_option
@json_option
def run(
    url: str,
    bundle_path: Path,
    out: Path,
    clean: bool,
    only: str | None,
    data: str | None,
    limit: int,
    device_python: str | None,
    ssh_config: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Copy the kit of BUNDLE to a device, run check and bench there, bring the records back.

    After a cut connection the same command goes on with what is complete there. Exits 2 when a
    gate failed or the measuring was INVALID (throttled, hot, disturbed, emulated); the records are
    written all the same.
    """
    require_export_extra("device run", ("torch", "torchvision", "onnx", "safetensors"))
    import tempfile

    from benchmarks.kit.build import build_kit
    from benchmarks.kit.on_device import STEPS, remote_kit, run_on_device
    from export.bundle import load_bundle
    from runtime_check.targets.ssh import Ssh, parse_destination, require_ssh
    from runtime_check.victims import victims_for

    require_ssh()
    ssh = Ssh(parse_destination(url), ssh_config)
    _refuse_overwriting(out, force=force)
    bundle = load_bundle(bundle_path)
    ssh.reach()
    victims = victims_for(bundle.manifest, source=data, limit=limit)
    with progress_bars() as progress, tempfile.TemporaryDirectory() as work:
        kit = build_kit(bundle, victims, Path(work) / "kit.tar.gz", progress=progress)
        found = run_on_device(
            url,
            ssh,
            bundle,
            kit,
            steps=tuple(step for step in STEPS if only in (None, step)),
            python=device_python,
            progress=progress,
        )
    _write(out, found, replace=force)
    _tidy(remote_kit(ssh, kit), out, clean=clean)
    _show(found, out, as_json=as_json)
    _judge(found)


@command.command()
@click.argument("url", metavar="ssh://[USER@]HOST[:PORT]")
@ssh_config_option
def clean(url: str, ssh_config: Path | None) -> None:
    """Remove every kit, record and package that edgeveil has left on a device."""
    from runtime_check.targets.ssh import Ssh, parse_destination, require_ssh
    from runtime_check.targets.ssh_packages import remove_all

    require_ssh()
    destination = parse_destination(url)
    remove_all(Ssh(destination, ssh_config))
    click.echo(f"{destination.name}: nothing of edgeveil is left")


def _refuse_overwriting(out: Path, *, force: bool) -> None:
    from records.errors import OverwriteError

    for name in _FILES:
        if (out / name).exists() and not force:
            raise OverwriteError(
                f"{out / name} already exists; add --force or choose another --out"
            )


def _write(out: Path, found: DeviceRun, *, replace: bool) -> None:
    from records import codec, files

    if found.bench is not None:
        files.write_bytes(out / "bench-samples.json", found.samples, replace=replace)
        codec.write(out / "bench.json", found.bench, replace=replace)
    if found.check is not None:
        codec.write(out / "check.json", found.check, replace=replace)
    codec.write(out / RECORD_NAME, found.device, replace=replace)


def _tidy(remote: RemoteKit, out: Path, *, clean: bool) -> None:
    from runtime_check.targets.ssh import DeviceError

    try:
        if clean:
            remote.clean()
        else:
            remote.forget_records()
    except DeviceError as error:
        raise DeviceError(
            f"the records are in {out}, but the device was not tidied ({error}); run: "
            "edgeveil device clean"
        ) from error


def _judge(found: DeviceRun) -> None:
    from records.errors import GateFailedError

    parts = []
    if found.check is not None and not found.check.passed:
        missed = [f"{g.artifact or 'input'} {g.name}" for g in found.check.gates if not g.passed]
        parts.append(f"check: {', '.join(missed) or 'nothing ran'}")
    if not found.device.timing.valid:
        names = dict.fromkeys(one.name for one in found.device.timing.not_met)
        parts.append(f"bench is INVALID: {', '.join(names) or 'nothing was measured'}")
    if parts:
        raise GateFailedError("; ".join(parts))


def _show(found: DeviceRun, out: Path, *, as_json: bool) -> None:
    from records import codec

    if as_json:
        click.echo(codec.encode(found.device).decode(), nl=False)
        return
    from rich.console import Console

    from commands.bench import print_bench

    console = Console()
    console.print(_sentence(found.device), markup=False, soft_wrap=True)
    if found.check is not None:
        _print_check(found.check, console)
    if found.bench is not None:
        print_bench(found.bench, out / "bench.json")
    console.print(f"records: {out}", markup=False, soft_wrap=True)


def _sentence(device: DeviceRecord) -> str:
    machine, timing = device.machine, device.timing
    heat = [
        f"{max(state.temperatures_c.values()):.1f} °C"
        for state in (timing.before, timing.after)
        if state is not None and state.temperatures_c
    ]
    parts = [
        f"{machine.board or machine.cpu_model} ({machine.cpu_model}, {machine.arch})",
        counted(machine.cores, "core"),
        f"governor {', '.join(machine.governors) or 'not told'}",
        *([f"{' → '.join(heat)}"] if heat else []),
        machine.os,
        machine.python,
    ]
    return f"{device.destination}: {', '.join(parts)}"


def _print_check(check: DeviceCheck, console: Console) -> None:
    table = plain_table(
        f"{counted(check.images, 'victim')} on the device: against eager INT8, against this host"
    )
    for column in ("artifact", "mode"):
        table.add_column(column, no_wrap=True)
    for column in ("max", "≤ 1 LSB", "host max", "equal", "SQNR"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in check.artifacts:
        table.add_row(row.artifact, row.mode, *_cells(row))
    console.print(table)
    for skip in check.skipped:
        console.print(f"skipped {skip.artifact}: {skip.reason}", markup=False)
    failed = [gate for gate in check.gates if not gate.passed]
    console.print(f"gates: {len(check.gates) - len(failed)} of {len(check.gates)} passed")
    for gate in failed:
        console.print(
            f"FAIL {gate.artifact or 'input'} {gate.name}: {gate.measured} ({gate.bound} "
            f"{gate.limit:g})",
            markup=False,
        )


def _cells(row: DeviceRow) -> tuple[str, ...]:
    if row.failure is not None:
        return ("did not run", "", "", "", "")
    sqnr = "" if row.from_eager is not None else "equal"
    if row.parity_sqnr_db is not None:
        sqnr = f"{row.parity_sqnr_db:.1f} dB"
    return (*_lsb(row.from_eager, "within"), *_lsb(row.from_host, "equal"), sqnr)


def _lsb(difference: LsbDifference | None, share: str) -> tuple[str, str]:
    if difference is None:
        return ("", "")
    value = difference.share_within_1_lsb if share == "within" else difference.share_identical
    return (str(difference.max_lsb), f"{value:.2%}")
