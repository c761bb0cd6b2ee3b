from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from report.document import Cell, columns
from report.render import (
    code_markdown,
    escape_markdown,
    fence_markdown,
    head_markdown,
    row_markdown,
)


@given(st.text())
def test_escaped_text_is_one_line_without_markup(value: str) -> None:
    escaped = escape_markdown(value)
    assert "\n" not in escaped
    assert "<" not in escaped
    assert ">" not in escaped
    assert not re.search(r"(?<!\\)(\\\\)*[|`*\[\]]", escaped)


@given(st.text())
def test_escaping_loses_nothing_but_white_space(value: str) -> None:
    escaped = escape_markdown(value)
    shown = re.sub(r"\\([\\|*`\[\]~$_#+.)-])", r"\1", escaped)
    shown = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert shown == " ".join(value.split())


@given(st.text())
def test_a_code_span_cannot_be_left(value: str) -> None:
    span = code_markdown(value)
    assert span == "" or (span.count("`") == 2 and span.startswith("`") and span.endswith("`"))
    assert "|" not in span
    assert "\n" not in span


@given(st.text(alphabet="`a\n"))
def test_a_fence_is_longer_than_any_inside(value: str) -> None:
    lines = fence_markdown(value, "sh").splitlines()
    fence = lines[-1]
    assert lines[0] == f"{fence}sh"
    assert all(not line.startswith(fence) for line in lines[1:-1])


def test_names_with_underscores_stay_readable() -> None:
    assert escape_markdown("recon_psnr_db") == "recon_psnr_db"
    assert escape_markdown("_private_") == "\\_private\\_"


def test_table_lines() -> None:
    assert head_markdown(columns("a", ">b")) == "| a | b |\n| --- | ---: |"
    assert row_markdown((Cell("x|y", code=True), Cell("1 | 2"))) == "| `x¦y` | 1 \\| 2 |"
