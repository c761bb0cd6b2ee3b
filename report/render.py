"""A document as one self-contained HTML page and as Markdown; escaping happens here."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from records.errors import UnsupportedHereError

if TYPE_CHECKING:
    from jinja2 import Environment

    from report.document import Cell, Column, Document, Picture

_MARKDOWN_ACTIVE = re.compile(r"[\\|*`\[\]~$]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


def render_html(document: Document) -> str:
    """Return the page: no script, no external request, pictures as data URIs.

    Raises:
        UnsupportedHereError: jinja2 is not installed.
    """
    return _environment().get_template("report.html.jinja").render(document=document)


def render_markdown(document: Document) -> str:
    """Return the report as GitHub-flavoured Markdown; pictures are links to the run's files.

    Raises:
        UnsupportedHereError: jinja2 is not installed.
    """
    return _environment().get_template("report.md.jinja").render(document=document)


def escape_markdown(value: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, one line."""
    line = " ".join(value.split())
    escaped = _MARKDOWN_ACTIVE.sub(lambda match: "\\" + match.group(), line)
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # At a line's start these would open a heading, a list or a quote.
    return re.sub(r"^([#+-]|\d+[.)])(?=\s|$|#)", r"\\\1", escaped)


def code_markdown(value: str) -> str:
    """Return a code span; backticks and pipes inside would end it or the table's cell."""
    line = " ".join(value.split()).replace("`", "'").replace("|", "¦")
    return f"`{line}`" if line else ""


def head_markdown(columns: tuple[Column, ...]) -> str:
    """Return a table's heading and its line of dashes, numbers right-aligned."""
    titles = " | ".join(escape_markdown(c.title) for c in columns)
    dashes = " | ".join("---:" if c.numeric else "---" for c in columns)
    return f"| {titles} |\n| {dashes} |"


def row_markdown(cells: tuple[Cell, ...]) -> str:
    """Return one row of a table."""
    texts = (code_markdown(c.text) if c.code else escape_markdown(c.text) for c in cells)
    return f"| {' | '.join(texts)} |"


def fence_markdown(value: str, language: str) -> str:
    """Return a fenced code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{value.rstrip()}\n{fence}"


def data_uri(picture: Picture) -> str:
    """Return the picture's bytes as a ``data:`` URI."""
    return f"data:{picture.media};base64,{base64.b64encode(picture.data).decode('ascii')}"


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise UnsupportedHereError(
            "the report needs jinja2, which is not installed: pip install 'edgeveil[export]'"
        ) from error
    environment = Environment(
        loader=PackageLoader("report", package_path=""),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    environment.filters["md"] = escape_markdown
    environment.filters["md_code"] = code_markdown
    environment.filters["md_head"] = head_markdown
    environment.filters["md_row"] = row_markdown
    environment.filters["md_fence"] = fence_markdown
    environment.filters["md_link"] = lambda path: quote(path, safe="/.-_~")
    return environment
