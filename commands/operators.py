"""``edgeveil operators``: what each artifact asks of the runtime that opens it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.recipe_options import json_option

if TYPE_CHECKING:
    from records.operators import OperatorsRecord


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
    from rich.table import Table

    table = Table(title=f"bundle {record.bundle_id[:16]}", title_justify="left")
    for column in ("artifact", "versions", "operators"):
        # Folded, never cut: a selective build needs every name whole.
        table.add_column(column, overflow="fold")
    for one in record.artifacts:
        table.add_row(
            f"{one.artifact}\n{one.file}",
            "\n".join(f"{name} {version}" for name, version in one.versions.items()),
            "\n".join(f"{use.name} ×{use.uses}" for use in one.operators),
            end_section=True,
        )
    Console().print(table)
