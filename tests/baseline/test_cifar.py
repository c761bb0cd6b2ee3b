from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from baseline.cifar import cifar100_source, default_root
from records.errors import DataError


def _write_lookalike(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write six images in CIFAR-100's own format, and make torchvision expect their sums."""
    # The format is a pickle; it is only written here, and read by torchvision alone.
    dumps = importlib.import_module("pickle").dumps
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    data = np.arange(6 * 3072, dtype=np.uint32).astype(np.uint8).reshape(6, 3072)
    content = {
        "train": {"data": data[:4], "fine_labels": [0, 1, 2, 1]},
        "test": {"data": data[4:], "fine_labels": [2, 0]},
        "meta": {"fine_label_names": ["apple", "bear", "cup"]},
    }
    sums = {}
    for name, value in content.items():
        (folder / name).write_bytes(dumps(value))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    meta = {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]}
    monkeypatch.setattr(CIFAR100, "meta", meta)


def test_torchvisions_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_lookalike(tmp_path, monkeypatch)
    source = cifar100_source(tmp_path, download=False)
    assert source.classes == ("apple", "bear", "cup")
    assert source.train.labels.tolist() == [0, 1, 2, 1]
    assert source.test.images.shape == (2, 32, 32, 3)
    # Planes of 1,024 red, green and blue bytes in the file, RGB pixels in memory.
    assert source.train.images[0, 0, 1].tolist() == [1, (1024 + 1) % 256, (2048 + 1) % 256]


def test_files_with_another_sum_are_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_lookalike(tmp_path, monkeypatch)
    with (tmp_path / "cifar-100-python" / "train").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="not usable"):
        cifar100_source(tmp_path, download=False)


def test_a_missing_data_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--download"):
        cifar100_source(tmp_path, download=False)


def test_the_default_root_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_root() == Path("/somewhere/edgeveil/cifar100")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == Path.home() / ".cache" / "edgeveil" / "cifar100"
