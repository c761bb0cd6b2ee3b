"""The report's plots as SVG bytes: the same numbers give the same bytes.

Small figures, made for a phone's width: on a wide screen the page sets them side by side.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from records.errors import UnsupportedHereError
from report.units import size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 4.3
INK = "#1b1c1e"
SOFT = "#55585e"
GRID = "#e4e3dd"
#: Okabe and Ito's palette, told apart with any colour vision; dashes tell them apart in grey.
SERIES_STYLES = (
    ("#6b6e75", "-"),
    ("#0072b2", "--"),
    ("#d55e00", "-"),
    ("#009e73", "-."),
    ("#cc79a7", ":"),
    ("#a87400", (0, (5, 1, 1, 1, 1, 1))),
)
FP32_COLOUR, INT8_COLOUR = "#6b6e75", "#0072b2"
#: More bars than this and their labels would run into each other; the axis tells enough.
MAX_LABELLED_BARS = 5

_STYLE = {
    "svg.hashsalt": "edgeveil",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Series:
    """One line of the distribution plot: images per bin of ``bin_db`` dB from ``first_db`` on."""

    label: str
    first_db: float
    bin_db: float
    counts: Sequence[int]


@dataclass(frozen=True)
class Latency:
    """One artifact's latency percentiles in milliseconds; ``valid`` is the bench's own mark."""

    label: str
    p50: float
    p90: float
    p99: float
    int8: bool
    valid: bool


@dataclass(frozen=True)
class FileSize:
    """One file's bytes, and how many of them are weights and biases."""

    label: str
    file_bytes: int
    weight_bytes: int
    int8: bool


@dataclass(frozen=True)
class Trade:
    """One line of a trade-off plot: a split's points, each labelled, some on the Pareto front."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str]
    front: Sequence[bool]


def trade_off(lines: Sequence[Trade], x_label: str, *, log_x: bool = False) -> bytes:
    """Return leak against what it is traded for, one line a split, points labelled by bits.

    A filled point is on the Pareto front, a hollow one is not.

    Args:
        lines: any number; styles repeat with other markers after four.
        x_label: of the axis that ``Trade.x`` stands on.
        log_x: a logarithmic axis, for bytes; every x must then be above 0.
    """
    with _figure(3.1) as (figure, axes):
        for place, one in enumerate(lines):
            colour, dash = SERIES_STYLES[(place + 1) % len(SERIES_STYLES)]
            marker = "os^D"[(place // len(SERIES_STYLES)) % 4]
            axes.plot(one.x, one.y, color=colour, linestyle=dash, lw=1.0, label=one.label)
            for x, y, name, front in zip(one.x, one.y, one.names, one.front, strict=True):
                face = colour if front else "white"
                axes.plot([x], [y], marker=marker, ms=6, mfc=face, mec=colour, ls="none")
                axes.annotate(name, (x, y), (5, 4), textcoords="offset points", fontsize=8.5)
        if log_x:
            from matplotlib.ticker import LogLocator

            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.minorticks_off()
        axes.margins(0.12)
        axes.set_xlabel(x_label)
        axes.set_ylabel("leak over the floor (dB)")
        axes.grid(axis="both")
        _legend_above(axes)
        return _svg(figure)


def psnr_distribution(series: Sequence[Series], floor_db: float | None) -> bytes:
    """Return, for each line, the share of images that are rebuilt at least so well.

    The complementary cumulative distribution of per-image ``recon_psnr_db``, exact at the bins'
    edges; unlike a histogram it can be read with a hundred images as with ten thousand.

    Args:
        series: at most six lines.
        floor_db: what the mean image reaches on average, drawn as a dotted line.
    """
    with _figure(2.7) as (figure, axes):
        for one, (colour, dash) in zip(series, SERIES_STYLES, strict=False):
            edges, shares = at_least_shares(one)
            axes.plot(edges, shares, color=colour, linestyle=dash, lw=1.6, label=one.label)
        if floor_db is not None:
            axes.axvline(floor_db, color=INK, linestyle=":", lw=1.1, label="floor: mean image")
        axes.set_xlabel("recon_psnr_db (dB)")
        axes.set_ylabel("images rebuilt so well (%)")
        axes.set_xlim(*_occupied(series, floor_db))
        axes.set_ylim(0, 102)
        axes.grid(axis="y")
        _legend_above(axes)
        return _svg(figure)


def at_least_shares(series: Series) -> tuple[list[float], list[float]]:
    """Return the bins' edges in dB and the per cent of images at or above each edge."""
    edges = [series.first_db + i * series.bin_db for i in range(len(series.counts) + 1)]
    total = max(sum(series.counts), 1)
    left = sum(series.counts)
    shares = [100 * left / total]
    for count in series.counts:
        left -= count
        shares.append(100 * left / total)
    return edges, shares


def latency_percentiles(rows: Sequence[Latency]) -> bytes:
    """Return a dot at p50 and a line to p99, marked at p90, for each artifact, in milliseconds.

    The axis is logarithmic: a tail a hundred times the median must not hide the medians. An
    INVALID row is hollow and says so.
    """
    with _figure(0.9 + 0.36 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            colour = INT8_COLOUR if row.int8 else FP32_COLOUR
            line = colour if row.valid else SOFT
            axes.plot([row.p50, row.p99], [place, place], color=line, lw=1.1)
            axes.plot([row.p90], [place], marker="|", color=line, ms=7, ls="none")
            axes.plot([row.p99], [place], marker="|", color=line, ms=4, ls="none")
            face = colour if row.valid else "white"
            axes.plot([row.p50], [place], marker="o", ms=6, mfc=face, mec=line, ls="none")
            text = f"{row.p50:.3g}" + ("" if row.valid else "  INVALID")
            axes.annotate(
                text, (row.p99, place), (6, 0), textcoords="offset points", va="center", fontsize=9
            )
        _rows_of(axes, [row.label for row in rows])
        _log_axis_of_rows(axes, rows)
        axes.set_xlabel("p50 (dot), p90, p99 in ms, log scale")
        return _svg(figure)


def size_bars(rows: Sequence[FileSize]) -> bytes:
    """Return a bar per file: the weight bytes dark, the rest of the file light, in kB."""
    with _figure(0.85 + 0.36 * len(rows)) as (figure, axes):
        for place, row in enumerate(rows):
            colour = INT8_COLOUR if row.int8 else FP32_COLOUR
            total, weights = row.file_bytes / 1000, min(row.weight_bytes, row.file_bytes) / 1000
            axes.barh(place, total, height=0.58, color=colour, alpha=0.3, linewidth=0)
            axes.barh(place, weights, height=0.58, color=colour, linewidth=0)
            axes.annotate(
                size(row.file_bytes),
                (total, place),
                (4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_xlabel("file (kB); the dark part is weights")
        widest = max((row.file_bytes for row in rows), default=1) / 1000
        _rows_of(axes, [row.label for row in rows])
        axes.set_xlim(0, widest * 1.22)
        return _svg(figure)


def lsb_histogram(differences: Sequence[int], shares: Sequence[float]) -> bytes:
    """Return the share of boundary values per absolute difference in LSB, on a log scale.

    Args:
        differences: absolute differences, 0, 1, 2 … in LSB.
        shares: share of values for each, in [0, 1]; zeros are not drawn.
    """
    drawn = [(d, 100 * s) for d, s in zip(differences, shares, strict=True) if s > 0]
    with _figure(2.3) as (figure, axes):
        low = min((s for _, s in drawn), default=1.0)
        bottom = min(low / 4, 1.0)
        for difference, share in drawn:
            axes.bar(difference, share - bottom, bottom=bottom, width=0.7, color=INT8_COLOUR)
            if len(drawn) <= MAX_LABELLED_BARS:
                axes.annotate(
                    f"{share:.3g}%",
                    (difference, share),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                )
        axes.set_yscale("log")
        axes.set_ylim(bottom, 100 * (100 / bottom) ** 0.12)
        last = max((d for d, _ in drawn), default=0)
        axes.set_xlim(-0.6, max(last, 3) + 0.6)
        axes.set_xticks(range(0, max(last, 3) + 1, max(1, -(-(last + 1) // 12))))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("difference from eager INT8 (LSB)")
        axes.set_ylabel("boundary values (%)")
        axes.grid(axis="y")
        axes.minorticks_off()
        return _svg(figure)


def _occupied(series: Sequence[Series], floor_db: float | None) -> tuple[float, float]:
    """Return the range of dB that holds images, and the floor, with 1 dB of room."""
    places = [] if floor_db is None else [floor_db]
    for one in series:
        filled = [i for i, n in enumerate(one.counts) if n]
        places += [one.first_db + i * one.bin_db for i in filled]
        places += [one.first_db + (i + 1) * one.bin_db for i in filled]
    return (min(places) - 1, max(places) + 1) if places else (0.0, 1.0)


def _rows_of(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.grid(axis="x")


def _log_axis_of_rows(axes: Axes, rows: Sequence[Latency]) -> None:
    """Set a logarithmic axis with room on its right for the numbers."""
    from matplotlib.ticker import LogLocator

    low = min((row.p50 for row in rows if row.p50 > 0), default=0.1) / 1.4
    high = max((row.p99 for row in rows), default=1.0)
    room = 0.75 if any(not row.valid for row in rows) else 0.3
    axes.set_xscale("log")
    axes.set_xlim(low, high * (high / low) ** room)
    wide = high > 30 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, handlelength=1.8, columnspacing=1.4
    )


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedHereError(
            "the plots need matplotlib, which is not installed: pip install 'edgeveil[export]'"
        ) from error
    # after_reset: a matplotlibrc of the user's must not change the report's bytes.
    with style.context(_STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
