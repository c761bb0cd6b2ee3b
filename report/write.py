"""Write ``report.md`` and ``report.html`` of a run; the same records give the same bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from records import codec, files
from records.errors import OverwriteError
from records.sweep import RECORD_NAME as SWEEP_NAME
from records.sweep import Sweep
from report.document import Document
from report.load import RunRecords, load_run
from report.page import build_document
from report.render import render_html, render_markdown
from report.sweep import sweep_document

MARKDOWN_NAME = "report.md"
HTML_NAME = "report.html"


@dataclass(frozen=True)
class WrittenReport:
    """Where the two files are."""

    markdown: Path
    html: Path


def write_report(run_folder: Path, out: Path, *, replace: bool = False) -> WrittenReport:
    """Make the Markdown and the HTML report from a run's JSON records and pictures alone.

    Args:
        run_folder: as ``edgeveil run`` leaves it; records that are missing are stated as not run.
            A folder that holds ``sweep.json`` gets the page of that sweep.
        out: folder of the two files; made when missing.
        replace: allow existing reports to be replaced.

    Raises:
        InputError: there is no record at all.
        RecordError: a record is malformed, or records of different bundles are mixed.
        OverwriteError: a report is already there and ``replace`` is false.
        UnsupportedHereError: jinja2 or matplotlib is not installed.
    """
    written = WrittenReport(out / MARKDOWN_NAME, out / HTML_NAME)
    for path in (written.markdown, written.html):
        if path.exists() and not replace:
            raise OverwriteError(f"{path} already exists; pass --force to replace it")
    document = _document(run_folder, out)
    markdown, html = render_markdown(document), render_html(document)
    files.write_bytes(written.markdown, markdown.encode(), replace=replace)
    files.write_bytes(written.html, html.encode(), replace=replace)
    return written


def _document(folder: Path, out: Path) -> Document:
    if (folder / SWEEP_NAME).is_file():
        return sweep_document(codec.read(folder / SWEEP_NAME, Sweep))
    run = load_run(folder)
    return build_document(run, _links(run, out))


def _links(run: RunRecords, out: Path) -> dict[Path, str]:
    base = out.resolve()
    return {
        picture.path: Path(os.path.relpath(picture.path.resolve(), base)).as_posix()
        for records in run.splits
        for picture in records.pictures
    }
