"""``python -m report.place_results PAGE RESULTS…``: put results files' tables into a page."""

from __future__ import annotations

import sys
from pathlib import Path

from report.results_table import place_results


def main(arguments: list[str]) -> None:
    """Place the tables of each results file between its markers in the page.

    Args:
        arguments: a Markdown page, then one or more results files.

    Raises:
        InputError: the page has no markers for a file.
        RecordError: a results file is malformed.
    """
    page, *results = (Path(a) for a in arguments)
    for path in results:
        print("changed" if place_results(page, path) else "unchanged", path)


if __name__ == "__main__":
    main(sys.argv[1:])
