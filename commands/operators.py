"""``edgeveil operators``: what each artifact asks of the runtime that opens it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.plain_table import plain_table
from commands.recipe_options import json_option

if TYPE_CHECKING:
    from rich.table import Table

    from records.operators import ArtifactOperators, OperatorsRecord


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@json_option
def command(bundle_path: Path, as_json: bool) -> None:
    """List the operators and format versions of the edge artifacts in BUNDLE.

    Read from the files' bytes, without any runtime: for an app whose runtime is built with chosen
    operators only, or is older than the one that was exported with. docs/phones.md says which
    versions the runtimes of Android and iOS have.
    """
    from export.bundle import load_bundle
    from export.operator_list import operators_of
    from records import codec

    record = operators_of(load_bundle(bundle_path))
    if as_json:
        click.echo(codec.encode(record).decode(), nl=False)
    else:
        _print_table(record)


def _print_table(record: OperatorsRecord) -> None:
    from rich.console import Console

    console = Console()
    console.print(f"bundle {record.bundle_id[:16]}")
    for one in record.artifacts:
        console.print(_table(one))


def _table(one: ArtifactOperators) -> Table:
    # A table for each file: a selective build needs every name whole, also on 80 columns.
    table = plain_table(f"\n{one.artifact}  {one.file}")
    table.add_column("versions", no_wrap=True)
    table.add_column("operators", no_wrap=True)
    versions = "\n".join(f"{name} {version}" for name, version in one.versions.items())
    table.add_row(versions, "\n".join(f"{use.name} ×{use.uses}" for use in one.operators))
    return table
