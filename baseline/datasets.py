"""``--data``: a source's images as seeded, disjoint train, calibration, attacker and victim sets.

The victims come from the source's test part, everything else from its train part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baseline import photos
from baseline.cifar import cifar100_source, default_root
from baseline.folder import folder_source
from baseline.images import ImageSet, SourceImages, content_keys
from baseline.npz import npz_source, read_npz
from records.errors import DataError
from records.hashing import sha256_array
from records.manifest import DataRecord, SetRecord
from records.recipe import DataRecipe

__all__ = ["ImageSet", "ImageSplits", "load_splits", "read_npz"]

DEFAULT_CALIBRATION = 1024
DEFAULT_ATTACKER = 20_000
#: ``photos``: 8,000 patches on the train side, 2,000 victims.
PHOTO_COUNTS = {"train": 4000, "calibration": 512, "attacker": 3488, "victim": 2000}
PHOTO_TRAIN_SIDE = 8000


@dataclass(frozen=True)
class ImageSplits:
    """The four sets, the class names, and the record of where all that came from."""

    train: ImageSet
    calibration: ImageSet
    attacker: ImageSet
    victim: ImageSet
    classes: tuple[str, ...]
    record: DataRecord


@dataclass(frozen=True)
class _Sets:
    train: ImageSet
    calibration: ImageSet
    attacker: ImageSet
    victim: ImageSet
    dropped: int


def load_splits(recipe: DataRecipe) -> ImageSplits:
    """Read a source and divide it; the same recipe gives the same sets, bit for bit.

    Train-side images that are byte-equal to a victim are dropped everywhere, whatever their label;
    with the pool ``held-out``, so is every second copy on the train side, which could otherwise
    stand in two sets. ``record.dropped_duplicates`` counts both. With the pool ``train`` the
    calibration set is a part of the train set and the attacker draws from the whole train side.

    Counts left out: victims, the whole test part; calibration, 1,024 or a tenth of the train part;
    attacker, 20,000 or half of it (with ``train``: or all of it); train, the rest (or all).
    For ``photos`` 4,000 / 512 / 3,488 / 2,000 (with ``train``: 8,000 / 800 / 8,000 / 2,000).

    Args:
        recipe: the section ``data`` of a recipe.

    Returns:
        The sets, images uint8 (N, S, S, 3) with S = ``recipe.native_size``.

    Raises:
        DataError: the source is missing or malformed, or too small for the counts.
        UnsupportedHereError: the source needs a package of the extra ``export``.
    """
    if recipe.source == "photos" and recipe.attacker_pool == "held-out":
        classes, sets = photos.CLASSES, _photo_sets(recipe)
    else:
        source = _read_source(recipe)
        classes, sets = source.classes, _partition(source, recipe)
    _check_size(sets.train, recipe)
    return ImageSplits(
        train=sets.train,
        calibration=sets.calibration,
        attacker=sets.attacker,
        victim=sets.victim,
        classes=classes,
        record=_record(sets, classes, recipe),
    )


def _read_source(recipe: DataRecipe) -> SourceImages:
    kind, _, where = recipe.source.partition(":")
    if kind == "npz":
        return npz_source(Path(where))
    if kind == "folder":
        return folder_source(Path(where), recipe.native_size, recipe.seed)
    if kind == "cifar100":
        root = Path(where) if where else default_root()
        return cifar100_source(root, download=recipe.download)
    counts = {
        "train": max(PHOTO_TRAIN_SIDE, recipe.train or 0, recipe.attacker or 0),
        "victim": recipe.victims or PHOTO_COUNTS["victim"],
    }
    cut = photos.cut_patches(counts, recipe.native_size, recipe.seed)
    return SourceImages(cut["train"].images, cut["victim"].images, photos.CLASSES)


def _photo_sets(recipe: DataRecipe) -> _Sets:
    asked = {
        "train": recipe.train,
        "calibration": recipe.calibration,
        "attacker": recipe.attacker,
        "victim": recipe.victims,
    }
    counts = {role: asked[role] or PHOTO_COUNTS[role] for role in PHOTO_COUNTS}
    cut = photos.cut_patches(counts, recipe.native_size, recipe.seed)
    return _Sets(**{role: patches.images for role, patches in cut.items()}, dropped=0)


def _partition(source: SourceImages, recipe: DataRecipe) -> _Sets:
    held_out = recipe.attacker_pool == "held-out"
    victim = source.test.take(_permutation(recipe, 1, len(source.test)))
    victim = _first(victim, recipe.victims or len(victim), "victims")
    keep = _unique_mask(source.train.images, victim.images, drop_copies=held_out)
    pool = source.train.take(keep)
    pool = pool.take(_permutation(recipe, 0, len(pool)))
    divide = _held_out if held_out else _shared
    train, calibration, attacker = divide(pool, recipe)
    dropped = int(len(keep) - keep.sum())
    return _Sets(train, calibration, attacker, victim, dropped)


def _held_out(pool: ImageSet, recipe: DataRecipe) -> tuple[ImageSet, ImageSet, ImageSet]:
    size = len(pool)
    calibration = recipe.calibration or min(DEFAULT_CALIBRATION, size // 10)
    attacker = recipe.attacker or min(DEFAULT_ATTACKER, size // 2)
    if recipe.train and not recipe.attacker:
        attacker = min(DEFAULT_ATTACKER, size - recipe.train - calibration)
    train = recipe.train or size - calibration - attacker
    if min(train, calibration, attacker) < 1 or train + calibration + attacker > size:
        raise DataError(
            f"{recipe.source} has {size} distinct train images, too few for {train} train, "
            f"{calibration} calibration and {attacker} attacker images, each at least 1"
        )
    ends = np.cumsum([train, calibration, attacker])
    parts = np.split(np.arange(ends[-1]), ends[:-1])
    return pool.take(parts[0]), pool.take(parts[1]), pool.take(parts[2])


def _shared(pool: ImageSet, recipe: DataRecipe) -> tuple[ImageSet, ImageSet, ImageSet]:
    train = _first(pool, recipe.train or len(pool), "train images")
    calibration = recipe.calibration or max(1, min(DEFAULT_CALIBRATION, len(train) // 10))
    attacker = recipe.attacker or min(DEFAULT_ATTACKER, len(pool))
    # Another order than train's: a smaller pool is then no mere prefix of the train set.
    others = pool.take(_permutation(recipe, 2, len(pool)))
    return (
        train,
        _first(train, calibration, "calibration images"),
        _first(others, attacker, "attacker images"),
    )


def _first(images: ImageSet, count: int, what: str) -> ImageSet:
    if not 1 <= count <= len(images):
        raise DataError(f"{count} {what} are asked for, the source has {len(images)}")
    return images if count == len(images) else images.take(np.arange(count))


def _permutation(recipe: DataRecipe, stream: int, size: int) -> NDArray[np.intp]:
    return np.random.default_rng((recipe.seed, stream)).permutation(size)


def _unique_mask(
    images: NDArray[np.uint8], victims: NDArray[np.uint8], *, drop_copies: bool
) -> NDArray[np.bool_]:
    if images.shape[1:] != victims.shape[1:]:
        raise DataError(f"train images are {images.shape[1:]}, test images {victims.shape[1:]}")
    forbidden = set(content_keys(victims))
    keep = np.ones(len(images), dtype=np.bool_)
    for index, key in enumerate(content_keys(images)):
        keep[index] = key not in forbidden
        if drop_copies:
            forbidden.add(key)
    return keep


def _check_size(images: ImageSet, recipe: DataRecipe) -> None:
    side = images.images.shape[1]
    if side != recipe.native_size:
        raise DataError(
            f"{recipe.source} has {side} px images, the recipe says native_size = "
            f"{recipe.native_size}; set [data] native_size = {side}"
        )


def _record(sets: _Sets, classes: tuple[str, ...], recipe: DataRecipe) -> DataRecord:
    return DataRecord(
        source=recipe.source,
        native_size=recipe.native_size,
        classes=classes,
        train=_set_record(sets.train),
        calibration=_set_record(sets.calibration),
        attacker=_set_record(sets.attacker),
        victim=_set_record(sets.victim),
        attacker_pool=recipe.attacker_pool,
        dropped_duplicates=sets.dropped,
    )


def _set_record(images: ImageSet) -> SetRecord:
    return SetRecord(count=len(images), sha256=sha256_array(images.images, images.labels))
