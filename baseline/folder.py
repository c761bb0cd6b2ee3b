"""The reader of ``folder:DIR``: one folder of pictures a class, as torchvision's ImageFolder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baseline.images import ImageSet, SourceImages
from records.errors import DataError, UnsupportedHereError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
#: Share of each class that becomes the test part where the folder has none of its own.
TEST_SHARE = 0.2


def folder_source(folder: Path, size: int, seed: int) -> SourceImages:
    """Read a data set from folders of JPEG and PNG pictures.

    ``DIR/train/<class>/*`` and ``DIR/test/<class>/*`` where both exist; else ``DIR/<class>/*``, of
    which a seeded fifth of each class becomes the test part. Each picture is turned upright,
    cut to its central square and resized.

    Args:
        folder: the data set's root.
        size: side of the resulting images in pixels.
        seed: of the partition.

    Raises:
        DataError: no such folder, no pictures, a class that only the test part has, or a
            picture that cannot be decoded.
        UnsupportedHereError: Pillow is not installed.
    """
    train, test = folder / "train", folder / "test"
    if train.is_dir() and test.is_dir() and any(child.is_dir() for child in train.iterdir()):
        classes = _class_names(train)
        unknown = set(_class_names(test)) - set(classes)
        if unknown:
            raise DataError(f"{test} has classes that {train} lacks: {', '.join(sorted(unknown))}")
        return SourceImages(
            _read(_pictures(train, classes), size), _read(_pictures(test, classes), size), classes
        )
    classes = _class_names(folder)
    whole = _read(_pictures(folder, classes), size)
    is_test = _test_mask(whole.labels, len(classes), seed)
    return SourceImages(whole.take(~is_test), whole.take(is_test), classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    names = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir()))
    if not names:
        raise DataError(f"{folder} has no class folders; put the pictures in {folder}/<class>/")
    return names


def _pictures(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    found = [
        (path, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataError(f"{folder} has no .jpg or .png pictures in its class folders")
    return found


def _read(pictures: list[tuple[Path, int]], size: int) -> ImageSet:
    images = np.stack([_square(path, size) for path, _ in pictures])
    labels = np.array([label for _, label in pictures], dtype=np.int64)
    return ImageSet(images=images, labels=labels)


def _square(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise UnsupportedHereError(
            "folder: needs Pillow; run: pip install 'edgeveil[export]'"
        ) from error
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    # Pillow's decoders raise SyntaxError and ValueError too on damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded: {error}") from error
    return np.asarray(fitted, dtype=np.uint8)


def _test_mask(labels: NDArray[np.int64], classes: int, seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in range(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            mask[members[: max(1, round(TEST_SHARE * len(members)))]] = True
    if not mask.any():
        raise DataError("every class has a single picture: none is left for the test part")
    return mask
