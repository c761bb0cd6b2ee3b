"""Pictures: the same bytes every time, the pixels that were given, no metadata."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from attack.pictures import Row, picture
from records.errors import InputError


def rows(count: int = 3) -> tuple[Row, ...]:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return tuple(Row(f"row {k}\nline", images, ("1.0 dB",) * count) for k in range(2))


def test_the_same_rows_give_the_same_bytes_without_metadata() -> None:
    data = picture(rows())
    assert data == picture(rows())
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert image.info == {}


def test_the_pixels_are_those_given_enlarged_without_smoothing() -> None:
    (row, _) = rows()
    with Image.open(io.BytesIO(picture((row,)))) as opened:
        shown = np.asarray(opened.convert("RGB"))
    enlarged = row.images[1].repeat(3, axis=0).repeat(3, axis=1)
    found = any(
        np.array_equal(shown[y : y + 96, x : x + 96], enlarged)
        for y in range(shown.shape[0] - 95)
        for x in range(shown.shape[1] - 95)
        if np.array_equal(shown[y, x : x + 96], enlarged[0])
    )
    assert found


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="rows of one length"):
        picture((rows(3)[0], rows(2)[0]))
    with pytest.raises(InputError, match="rows of one length"):
        picture(())
