"""``python -m report.place_results PAGE FILE…``: put committed files' tables into a page."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from records import codec, files
from records.arm_results import ArmResults
from records.errors import InputError
from records.hashing import sha256_file
from records.results import Results
from records.sweep import Sweep
from report.arm_table import arm_markdown
from report.curve_table import curve_markdown
from report.cuts_table import cuts_markdown
from report.results_table import results_markdown
from report.sweep import trade_off_pictures

#: What calibration alone gives at the same cuts lies beside a file of trained ones.
CALIBRATED_SUFFIX = "_calibrated"


def table_of(kind: str, path: Path) -> str:
    """Return the Markdown that stands between a kind's markers.

    Args:
        kind: ``results``, ``cuts``, ``curve`` or ``arm``.
        path: a results file; ``cuts`` also reads the one with ``_calibrated`` in its name; a
            sweep's record for ``curve``.

    Raises:
        InputError: there is no such kind.
        RecordError: a file is missing or malformed.
    """
    if kind not in _TABLES:
        raise InputError(f"a table of kind {kind!r} is unknown: use {', '.join(_TABLES)}")
    return _TABLES[kind](path)


def place_results(page: Path, path: Path) -> bool:
    """Put the table of a file between its markers in a Markdown page.

    Args:
        page: holds ``<!-- KIND:NAME -->`` … ``<!-- /KIND:NAME -->``, NAME being the file's name
            without its ending, KIND as in `table_of`.
        path: the file.

    Returns:
        Whether the page changed.

    Raises:
        InputError: the page does not hold such markers exactly once.
        RecordError: the file is malformed.
    """
    text = page.read_text(encoding="utf-8")
    name = re.escape(path.stem)
    found = re.findall(rf"<!-- (\w+):{name} -->\n.*?<!-- /\1:{name} -->", text, re.DOTALL)
    if len(found) != 1:
        raise InputError(f"{page} must hold the markers of {path.stem} exactly once")
    kind = found[0]
    placed = re.sub(
        rf"(<!-- {kind}:{name} -->\n).*?(<!-- /{kind}:{name} -->)",
        lambda m: m[1] + table_of(kind, path) + m[2],
        text,
        flags=re.DOTALL,
    )
    if placed == text:
        return False
    files.write_bytes(page, placed.encode(), replace=True)
    return True


def draw_curve(path: Path) -> Path:
    """Write leak against bytes of a sweep as SVG beside its record, and return where.

    Its last line names the record's SHA-256: a picture of other figures can be told.

    Raises:
        RecordError: the record is malformed.
    """
    picture = trade_off_pictures(codec.read(path, Sweep))[-1]
    out = path.with_suffix(".svg")
    files.write_bytes(out, picture.data.rstrip() + source_mark(path), replace=True)
    return out


def source_mark(path: Path) -> bytes:
    """Return the last line of a picture that was made from a record."""
    return f"\n<!-- {path.name} {sha256_file(path)} -->\n".encode()


def _cuts(path: Path) -> str:
    calibrated = path.with_name(f"{path.stem}{CALIBRATED_SUFFIX}{path.suffix}")
    return cuts_markdown(codec.read(path, Results), codec.read(calibrated, Results))


_TABLES: dict[str, Callable[[Path], str]] = {
    "results": lambda path: results_markdown(codec.read(path, Results)),
    "cuts": _cuts,
    "curve": lambda path: curve_markdown(codec.read(path, Sweep)),
    "arm": lambda path: arm_markdown(codec.read(path, ArmResults)),
}


def main(arguments: list[str]) -> None:
    """Place the table of each file between its markers in the page.

    Args:
        arguments: a Markdown page, then one or more files.

    Raises:
        InputError: the page has no markers for a file.
        RecordError: a file is malformed.
    """
    page, *paths = (Path(a) for a in arguments)
    for path in paths:
        print("changed" if place_results(page, path) else "unchanged", path)
        if f"<!-- curve:{path.stem} -->" in page.read_text(encoding="utf-8"):
            print("drawn", draw_curve(path))


if __name__ == "__main__":
    main(sys.argv[1:])
