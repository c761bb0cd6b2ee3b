"""The reader of ``npz:FILE``: numpy arrays, validated, never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baseline.images import ImageSet, SourceImages
from records.errors import DataError

_BROKEN = (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read every array of an ``.npz`` file without unpickling anything.

    Args:
        path: a zip archive of ``.npy`` members, compressed or not.

    Returns:
        The arrays by name, of any shape and any dtype but Python objects.

    Raises:
        DataError: the file is missing, no ``.npz``, damaged, or holds Python objects.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file")
    try:
        # Opened here, so that it is closed too where np.load gives up on a damaged file.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)  # noqa: TID251 - this is read_npz
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array, not an npz archive")
            return {name: archive[name] for name in archive.files}
    except _BROKEN as error:
        raise DataError(f"{path} is not a readable npz file: {error}") from error
    except NotImplementedError as error:
        raise DataError(f"{path} uses an unknown compression: {error}") from error


def npz_source(path: Path) -> SourceImages:
    """Read a data set from an ``.npz`` file.

    Args:
        path: holds ``train_x`` and ``test_x``, uint8 (N, H, H, 3); ``train_y`` and ``test_y``,
            integers (N,); optionally ``classes``, strings (K,).

    Raises:
        DataError: the file cannot be read, or an array is missing or of another kind.
    """
    arrays = read_npz(path)
    missing = {"train_x", "train_y", "test_x", "test_y"} - arrays.keys()
    if missing:
        raise DataError(f"{path} lacks the arrays {', '.join(sorted(missing))}")
    train, test = (_part(arrays, part, path) for part in ("train", "test"))
    classes = _classes(arrays, path)
    known = len(classes) or int(max(train.labels.max(), test.labels.max())) + 1
    for part, images in (("train", train), ("test", test)):
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= known:
            raise DataError(f"{path}: {part}_y runs from {low} to {high}, outside 0..{known - 1}")
    return SourceImages(train, test, classes or tuple(str(k) for k in range(known)))


def _part(arrays: dict[str, NDArray[np.generic]], part: str, path: Path) -> ImageSet:
    images, labels = arrays[f"{part}_x"], arrays[f"{part}_y"]
    if images.dtype != np.uint8 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: {part}_x must be uint8 and {part}_y integer, not {images.dtype} and "
            f"{labels.dtype}"
        )
    if not len(images):
        raise DataError(f"{path}: {part}_x is empty")
    try:
        return ImageSet(images=images.view(np.uint8), labels=labels.astype(np.int64))
    except DataError as error:
        raise DataError(f"{path}: {part}: {error}") from error


def _classes(arrays: dict[str, NDArray[np.generic]], path: Path) -> tuple[str, ...]:
    names = arrays.get("classes")
    if names is None:
        return ()
    if names.dtype.kind != "U" or names.ndim != 1 or not names.size:
        raise DataError(f"{path}: classes must be strings of shape (K,), not {names.dtype}")
    return tuple(str(name) for name in names)
