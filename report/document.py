"""What a report consists of, before it becomes HTML or Markdown: plain text and no markup.

All texts here are untrusted (class names, paths and versions come from records); escaping is the
work of ``report/render.py`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

Tone = Literal["", "good", "bad", "warn", "muted"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, whether it is code, and what it means."""

    text: str
    code: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand right-aligned."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; every row has one cell per column."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of running text."""

    kind: ClassVar[str] = "paragraph"
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Heading:
    """A heading below a section's own."""

    kind: ClassVar[str] = "heading"
    text: str
    code: bool = False


@dataclass(frozen=True)
class Code:
    """Preformatted text, such as a command or a recipe."""

    kind: ClassVar[str] = "code"
    text: str
    language: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture or plot.

    Attributes:
        media: MIME type of ``data``.
        data: the file's bytes, embedded in the HTML page.
        alt: what the picture shows, for who does not see it.
        caption: printed below it.
        file: where the picture lies, for Markdown; empty for plots, which only the page holds.
        wide: takes the page's whole width, and scrolls where the screen is narrower.
    """

    media: Literal["image/png", "image/svg+xml"]
    data: bytes
    alt: str
    caption: str
    file: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side where the screen allows it."""

    kind: ClassVar[str] = "gallery"
    pictures: tuple[Picture, ...]


Block: TypeAlias = Table | Paragraph | Heading | Code | Gallery


@dataclass(frozen=True)
class Section:
    """A titled part of the page with an anchor of its own."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class VerdictLine:
    """The verdict of one artifact, or of several with the same figures: badge and sentence."""

    artifacts: tuple[str, ...]
    word: str
    tone: Tone
    sentence: str
    figures: str = ""


@dataclass(frozen=True)
class SplitVerdicts:
    """The verdicts of all artifacts of one split, or why there are none."""

    split: str
    boundary: str
    lines: tuple[VerdictLine, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """The whole report, in reading order."""

    title: str
    lede: str
    facts: tuple[tuple[str, str], ...]
    verdicts: tuple[SplitVerdicts, ...]
    sections: tuple[Section, ...]


def text(value: str, tone: Tone = "") -> Cell:
    """Return a cell of running text or of a number."""
    return Cell(value, tone=tone)


def code(value: str) -> Cell:
    """Return a cell of code: a name, a file, a hash."""
    return Cell(value, code=True)


def columns(*titles: str) -> tuple[Column, ...]:
    """Return columns from their titles; one that starts with ``>`` holds numbers."""
    return tuple(Column(t.removeprefix(">"), numeric=t.startswith(">")) for t in titles)
