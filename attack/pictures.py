"""Pictures of reconstructions: rows of images, dB beneath each; the same bytes every time."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from records.errors import InputError

_SHOWN_SIDE = 96
_GAP = 8
_LABEL_WIDTH = 118
_CAPTION_HEIGHT = 16
_FONT_SIZE = 12
_INK, _MUTED, _PAPER = (20, 20, 20), (95, 95, 95), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """One row of a picture.

    Attributes:
        label: left of the row; a line break starts a second line.
        images: uint8 (K, H, W, 3).
        captions: K texts beneath the images.
    """

    label: str
    images: NDArray[np.uint8]
    captions: tuple[str, ...]


def picture(rows: tuple[Row, ...]) -> bytes:
    """Return a PNG of rows of images on white, pixels enlarged without smoothing.

    No time, name or version is written into it: the same rows give the same bytes with one
    version of Pillow.

    Args:
        rows: at least one, all with the same number of images, at least one.

    Raises:
        InputError: no rows, or rows of different lengths.
    """
    lengths = {len(row.images) for row in rows} | {len(row.captions) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"a picture needs rows of one length, not {sorted(lengths)}")
    count = lengths.pop()
    width = _LABEL_WIDTH + count * (_SHOWN_SIDE + _GAP) + _GAP
    height = _GAP + len(rows) * (_SHOWN_SIDE + _CAPTION_HEIGHT + _GAP)
    canvas = Image.new("RGB", (width, height), _PAPER)
    for number, row in enumerate(rows):
        _draw_row(canvas, row, _GAP + number * (_SHOWN_SIDE + _CAPTION_HEIGHT + _GAP))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()


def _draw_row(canvas: Image.Image, row: Row, top: int) -> None:
    draw = ImageDraw.Draw(canvas)
    # The basic layout needs no system library, so it is the same everywhere.
    font = ImageFont.load_default(_FONT_SIZE)
    middle = top + _SHOWN_SIDE // 2
    draw.multiline_text((_GAP, middle), row.label, fill=_INK, font=font, anchor="lm")
    for column, (pixels, caption) in enumerate(zip(row.images, row.captions, strict=True)):
        left = _LABEL_WIDTH + column * (_SHOWN_SIDE + _GAP)
        enlarged = Image.fromarray(np.ascontiguousarray(pixels)).resize(
            (_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.NEAREST
        )
        canvas.paste(enlarged, (left, top))
        draw.text(
            (left + _SHOWN_SIDE // 2, top + _SHOWN_SIDE + _CAPTION_HEIGHT // 2 + 1),
            caption,
            fill=_MUTED,
            font=font,
            anchor="mm",
        )
