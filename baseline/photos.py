"""The embedded data set ``photos``: patches of the photographs in scikit-image's wheel.

Class = photograph. Every picture is divided into blocks, each owned by one role, and a patch lies
wholly inside blocks of its role: no pixel is seen by two roles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from baseline.images import ImageSet
from records.errors import DataError, UnsupportedHereError

#: Files of skimage/data, all colour. motorcycle_right is left out: it shows the same scene as
#: motorcycle_left, and its victims would be half known to whoever trains on the other.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
CLASSES = tuple(name.partition(".")[0] for name in PHOTOGRAPHS)

#: A block's side in patches. 2 leaves 33 × 33 positions in a block that stands alone.
BLOCK_PATCHES = 2

#: Patches whose standard deviation (root mean square over the channels) is below this many levels
#: of 255 are skipped: black corners and clear sky hold no image that could leak.
#: It keeps 28 % of retina, 50 % of rocket and more than 88 % of the other pictures.
BLANK_LEVELS = 6.0

#: Rows of a picture handled at a time; larger arrays cost more in fresh memory than in sums.
_STRIP = 64

#: A block with fewer usable positions than this is owned by nobody.
_MIN_POSITIONS = 64


@dataclass(frozen=True)
class Patches:
    """The patches of one role.

    Attributes:
        images: the patches and the index of their photograph.
        corners: int64 (N, 2), row and column of each patch's top left pixel in its photograph.
    """

    images: ImageSet
    corners: NDArray[np.int64]


def cut_patches(counts: Mapping[str, int], size: int, seed: int) -> dict[str, Patches]:
    """Cut patches for every role from disjoint areas of every photograph.

    Args:
        counts: patches wanted by role; each is spread over the photographs as evenly as can be.
        size: side of a patch in pixels.
        seed: decides who owns which block, where the patches lie, and their order.

    Returns:
        The patches by role, shuffled; no two of them, of any roles, are byte-equal.

    Raises:
        DataError: a photograph has too few blocks or distinct patches for the counts.
        UnsupportedHereError: scikit-image or Pillow is not installed.
    """
    seen: set[bytes] = set()
    cut: dict[str, list[Patches]] = {role: [] for role in counts}
    for label in range(len(PHOTOGRAPHS)):
        picture = read_photograph(label)
        usable = usable_positions(picture, size)
        owners = assign_blocks(usable, picture.shape[:2], counts, size, seed=(seed, label))
        for number, (role, count) in enumerate(counts.items()):
            rng = np.random.default_rng((seed, label, number))
            wanted = _share(count, label)
            inside = usable & _wholly_inside(owners == number, size)
            corners = _distinct(picture, inside, wanted, size, rng, seen)
            if len(corners) < wanted:
                raise DataError(
                    f"photograph {CLASSES[label]} has fewer than {wanted} distinct {size} px "
                    f"patches for {role}; ask for fewer or smaller ones"
                )
            cut[role].append(_gather(picture, corners, size, label))
    return {
        role: _shuffled(parts, np.random.default_rng((seed, len(PHOTOGRAPHS), number)))
        for number, (role, parts) in enumerate(cut.items())
    }


def read_photograph(label: int) -> NDArray[np.uint8]:
    """Return a photograph, uint8 of shape (H, W, 3), read from the installed scikit-image.

    Raises:
        DataError: the installed scikit-image lacks the file.
        UnsupportedHereError: scikit-image or Pillow is not installed.
    """
    found = find_spec("skimage")
    if found is None or found.origin is None or find_spec("PIL") is None:
        raise UnsupportedHereError(
            "photos needs scikit-image and Pillow; run: pip install 'edgeveil[export]'"
        )
    from PIL import Image

    # The path, not skimage.data: that module would go to the network for a missing file.
    path = Path(found.origin).parent / "data" / PHOTOGRAPHS[label]
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"), dtype=np.uint8)
    except OSError as error:
        raise DataError(f"the installed scikit-image has no readable {path}: {error}") from error


def usable_positions(picture: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    """Say for every top left corner whether the patch there is more than near-blank.

    Args:
        picture: uint8 of shape (H, W, 3).
        size: side of a patch in pixels.

    Returns:
        bool (H - size + 1, W - size + 1).

    Raises:
        DataError: the picture is smaller than a patch.
    """
    if size > min(picture.shape[:2]):
        raise DataError(f"photos has pictures of {min(picture.shape[:2])} px, no {size} px patches")
    usable = [
        _spread_at_least(picture[row : row + _STRIP + size - 1], size)
        for row in range(0, len(picture) - size + 1, _STRIP)
    ]
    return np.concatenate(usable)


def assign_blocks(
    usable: NDArray[np.bool_],
    shape: tuple[int, ...],
    counts: Mapping[str, int],
    size: int,
    *,
    seed: tuple[int, ...],
) -> NDArray[np.int8]:
    """Give every pixel's block to one role, in shares as the counts.

    Args:
        usable: bool (H - size + 1, W - size + 1), see ``usable_positions``.
        shape: (H, W) of the picture.
        counts: patches wanted by role.
        size: side of a patch in pixels; a block has about ``BLOCK_PATCHES`` times that.
        seed: of the assignment.

    Returns:
        int8 (H, W): the role's index in ``counts``, or -1 where the block is owned by nobody.

    Raises:
        DataError: there are fewer usable blocks than roles.
    """
    blocks = [
        (rows, columns)
        for rows in pairwise(_edges(shape[0], size))
        for columns in pairwise(_edges(shape[1], size))
        if usable[_corners(rows, size), _corners(columns, size)].sum() >= _MIN_POSITIONS
    ]
    if len(blocks) < len(counts):
        raise DataError(f"{size} px patches leave {len(blocks)} blocks for {len(counts)} roles")
    owners = np.full(shape, -1, dtype=np.int8)
    order = np.random.default_rng(seed).permutation(len(blocks))
    for index, number in zip(order, _owner_list(counts, len(blocks)), strict=True):
        rows, columns = blocks[index]
        owners[slice(*rows), slice(*columns)] = number
    return owners


def _edges(length: int, size: int) -> list[int]:
    blocks = max(1, length // (BLOCK_PATCHES * size))
    return [length * k // blocks for k in range(blocks + 1)]


def _corners(span: tuple[int, int], size: int) -> slice:
    return slice(span[0], span[1] - size + 1)


def _owner_list(counts: Mapping[str, int], blocks: int) -> NDArray[np.intp]:
    """Return each block's role: one block a role first, the rest by the counts' shares."""
    shares = np.array(list(counts.values()), dtype=np.float64)
    owned = np.ones(len(shares), dtype=np.intp)
    for _ in range(blocks - len(shares)):
        # The role with the most patches a block gets the next one (D'Hondt).
        owned[int(np.argmax(shares / owned))] += 1
    return np.repeat(np.arange(len(shares)), owned)


def _share(count: int, label: int) -> int:
    photographs = len(PHOTOGRAPHS)
    return count // photographs + (label < count % photographs)


def _spread_at_least(strip: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    # Whole numbers: n·Σx² − (Σx)² is n² times the variance, exactly.
    values = strip.astype(np.int64)
    area = size * size
    sums = _box_sums(values, size)
    squares = _box_sums(np.einsum("hwc,hwc->hw", values, values), size)
    variance = area * squares - np.einsum("hwc,hwc->hw", sums, sums)
    enough: NDArray[np.bool_] = variance >= 3 * (area * BLANK_LEVELS) ** 2
    return enough


def _box_sums(plane: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    rows = _window_sums(plane, size)
    return _window_sums(rows.swapaxes(0, 1), size).swapaxes(0, 1)


def _window_sums(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the sum of every ``size`` neighbours along axis 0, by doubling the window."""
    length = len(values) - size + 1
    total = np.zeros_like(values[:length])
    sums, width, start = values, 1, 0
    while width <= size:
        if size & width:
            total += sums[start : start + length]
            start += width
        sums, width = sums[:-width] + sums[width:], 2 * width
    return total


def _wholly_inside(owned: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    # No block is smaller than a patch, so a patch touches no block without one of its corners.
    last = size - 1
    height, width = owned.shape[0] - last, owned.shape[1] - last
    top, bottom = owned[:height], owned[last:]
    return top[:, :width] & top[:, last:] & bottom[:, :width] & bottom[:, last:]


def _distinct(
    picture: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    wanted: int,
    size: int,
    rng: np.random.Generator,
    seen: set[bytes],
) -> NDArray[np.int64]:
    """Return up to ``wanted`` corners (M, 2) in random order, no patch equal to one seen."""
    chosen: list[tuple[int, int]] = []
    positions = np.flatnonzero(inside)
    # Too few positions cannot become enough patches: do not look at each of them.
    for flat in rng.permutation(positions if len(positions) >= wanted else positions[:0]):
        if len(chosen) == wanted:
            break
        row, column = divmod(int(flat), inside.shape[1])
        patch = picture[row : row + size, column : column + size]
        content = hashlib.blake2b(patch.tobytes(), digest_size=16).digest()
        if content not in seen:
            seen.add(content)
            chosen.append((row, column))
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def _gather(
    picture: NDArray[np.uint8], corners: NDArray[np.int64], size: int, label: int
) -> Patches:
    windows = sliding_window_view(picture, (size, size), axis=(0, 1))
    images = windows[corners[:, 0], corners[:, 1]].transpose(0, 2, 3, 1)
    labels = np.full(len(corners), label, dtype=np.int64)
    return Patches(ImageSet(np.ascontiguousarray(images), labels), corners)


def _shuffled(parts: list[Patches], rng: np.random.Generator) -> Patches:
    order = rng.permutation(sum(len(part.corners) for part in parts))
    whole = ImageSet(
        np.concatenate([part.images.images for part in parts]),
        np.concatenate([part.images.labels for part in parts]),
    )
    corners = np.concatenate([part.corners for part in parts])
    return Patches(whole.take(order), corners[order])
