"""``edgeveil target``: prepare, list and remove the emulated ARM targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.progress_bars import progress_bars
from commands.recipe_options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from records.target import TargetState

_YES = "[green]yes[/green]"
_NO = "[yellow]no[/yellow]"

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of targets  [default: $EDGEVEIL_TARGETS, else ~/.cache/edgeveil/targets]",
)


@click.group()
def command() -> None:
    """Prepare, list and remove emulated ARM CPUs: targets of check, bench and attack.

    A target is real ARM builds of the runtimes under qemu-user. It gives the outputs of the ARM
    kernels and counts of instructions, never a latency.
    """


@command.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--with",
    "extra",
    type=click.Choice(["lite", "executorch", "litert"]),
    multiple=True,
    help="More runtimes for aarch64; may be given again. lite: torch (104 MB), which runs .ptl. "
    "executorch: for .pte (18 MB and a cross compiler). litert: for .tflite (14 MB).",
)
@click.option(
    "--install-system-packages",
    is_flag=True,
    help="As root: let apt-get install qemu-user and the compilers where they are missing.",
)
@cache_option
@json_option
def prepare(
    name: str,
    extra: Sequence[str],
    install_system_packages: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Build the target NAME (cortex-a72 or cortex-a76) in the cache; do what is missing only.

    Needs qemu-user, a C compiler, Debian 12's package sources, and the network the first time;
    for --with executorch also aarch64-linux-gnu-g++. No root where the programs are there. Exits 3
    and says what to run where one is missing.
    """
    from runtime_check.targets.cache import cache_root
    from runtime_check.targets.prepare import prepare as prepare_target

    with progress_bars() as progress:
        state = prepare_target(
            name,
            cache_root(cache),
            extra=extra,
            install_system_packages=install_system_packages,
            progress=progress,
        )
    _show((state,), as_json=as_json)


@command.command(name="list")
@cache_option
@json_option
def list_targets(cache: Path | None, as_json: bool) -> None:
    """Say which targets are prepared, and what each still needs."""
    from runtime_check.targets.cache import cache_root
    from runtime_check.targets.prepare import states

    _show(states(cache_root(cache)), as_json=as_json)


@command.command()
@click.argument("name", metavar="NAME")
@cache_option
@json_option
def remove(name: str, cache: Path | None, as_json: bool) -> None:
    """Remove the target NAME; parts that another prepared target uses stay."""
    import msgspec

    from runtime_check.targets.cache import cache_root
    from runtime_check.targets.prepare import remove as remove_target

    gone = remove_target(name, cache_root(cache))
    if as_json:
        click.echo(msgspec.json.encode({"target": name, "removed": gone}))
    else:
        click.echo(f"{name}: removed {', '.join(gone) if gone else 'nothing'}")


def _show(states: Sequence[TargetState], *, as_json: bool) -> None:
    from records import codec

    if as_json:
        click.echo(codec.encode(states).decode(), nl=False)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for state in states:
        title = f"{state.target}: {'ready' if state.ready else 'not prepared'}"
        table = Table("part", "here", "detail", title=title, title_justify="left")
        for part in state.parts:
            name = part.part + (" (optional)" if part.optional else "")
            table.add_row(name, _YES if part.ready else _NO, escape(part.detail))
        console.print(table)
    console.print(f"cache: {states[0].folder}", markup=False, soft_wrap=True)
