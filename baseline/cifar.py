"""The reader of ``cifar100[:ROOT]``: torchvision's class, from disk or downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from baseline.images import ImageSet, SourceImages
from records.errors import DataError, UnsupportedHereError

#: What torchvision makes below the root.
CIFAR100_FOLDER = "cifar-100-python"


def default_root() -> Path:
    """Return the folder of CIFAR-100 where none is named: the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "edgeveil" / "cifar100"


def cifar100_source(root: Path, *, download: bool) -> SourceImages:
    """Read CIFAR-100: 50,000 train and 10,000 test images of 32 × 32 pixels in 100 classes.

    torchvision unpickles the data set's own files, but only after their MD5 sums matched
    the published ones.

    Args:
        root: the folder that holds ``cifar-100-python``.
        download: fetch the data set when it is not there.

    Raises:
        DataError: it is not there or damaged, or cannot be downloaded.
        UnsupportedHereError: torchvision is not installed.
    """
    try:
        from torchvision.datasets import CIFAR100
    except ImportError as error:
        raise UnsupportedHereError(
            "cifar100 needs torchvision; run: pip install 'edgeveil[export]'"
        ) from error
    try:
        parts = [CIFAR100(str(root), train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-100 is not usable at {root} ({error}); name its folder as cifar100:ROOT or "
            "allow the download (train --download, or in a recipe [data] download = true)"
        ) from error
    train, test = (
        ImageSet(images=part.data, labels=np.asarray(part.targets, dtype=np.int64))
        for part in parts
    )
    return SourceImages(train, test, tuple(parts[0].classes))
