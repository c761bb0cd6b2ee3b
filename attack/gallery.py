"""Which victims are shown: the study's picture, and the images that leak most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attack.base import Outcome
from attack.pictures import Row, picture
from records import files
from records.attack import Picture
from records.hashing import sha256_bytes

SHOWN = 8


@dataclass(frozen=True)
class Gallery:
    """What there is to show of one INT8 artifact.

    Attributes:
        victims: uint8 (N, H, W, 3).
        fp32: the strongest attack on FP32 features.
        int8: one outcome a level on the artifact.
        strongest: the strongest of them.
        artifact: its name.
    """

    victims: NDArray[np.uint8]
    fp32: Outcome
    int8: tuple[Outcome, ...]
    strongest: Outcome
    artifact: str


def write_pictures(folder: Path, gallery: Gallery, seed: int) -> tuple[Picture, ...]:
    """Write ``reconstructions.png`` and ``worst.png`` and return their records.

    Args:
        folder: made when missing.
        gallery: what there is to show.
        seed: of the choice of victims in the first picture.

    Raises:
        OverwriteError: a picture is already there.
    """
    # A2 attacks the first victims only.
    shown = min(len(o.images) for o in (gallery.fp32, *gallery.int8))
    count = min(SHOWN, shown)
    chosen = np.sort(np.random.default_rng((seed, 3)).permutation(shown)[:count])
    strongest = gallery.strongest
    worst = np.argsort(-strongest.scores.psnr[:shown], kind="stable")[:count]
    return (
        _write(
            folder / "reconstructions.png",
            f"Original, rebuilt from FP32 features, and from {gallery.artifact} by each attacker",
            chosen,
            (
                _fp32_row(gallery, chosen),
                *(_row(f"INT8\nby {o.level}", o, chosen) for o in gallery.int8),
            ),
            gallery,
        ),
        _write(
            folder / "worst.png",
            f"The victims that leak most from {gallery.artifact}, to attacker {strongest.level}",
            worst,
            (_fp32_row(gallery, worst), _row(f"INT8\nby {strongest.level}", strongest, worst)),
            gallery,
        ),
    )


def _fp32_row(gallery: Gallery, index: NDArray[np.intp]) -> Row:
    return _row("FP32", gallery.fp32, index)


def _row(label: str, outcome: Outcome, index: NDArray[np.intp]) -> Row:
    captions = tuple(f"{outcome.scores.psnr[k]:.1f} dB" for k in index)
    return Row(label=label, images=outcome.images[index], captions=captions)


def _write(
    path: Path, title: str, index: NDArray[np.intp], rows: tuple[Row, ...], gallery: Gallery
) -> Picture:
    original = Row("original", gallery.victims[index], tuple(f"victim {k}" for k in index))
    data = picture((original, *rows))
    files.write_bytes(path, data)
    victims = tuple(int(k) for k in index)
    return Picture(file=path.name, title=title, sha256=sha256_bytes(data), victims=victims)
