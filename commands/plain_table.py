"""A table without lines, for figures that must stand whole on 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def plain_table(title: str) -> Table:
    """Return an empty table with a title, one blank between columns and no lines."""
    from rich.table import Table

    return Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
