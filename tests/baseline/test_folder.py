from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baseline.folder import folder_source
from records.errors import DataError


def _picture(path: Path, width: int, height: int, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)


def _tree(root: Path, each: int = 10) -> Path:
    for k, name in enumerate(("cat", "ant")):
        for i in range(each):
            _picture(root / name / f"{i}.png", 40 + i, 30, (100 * k, 20 * i, 7))
    return root


def test_class_indices_are_the_alphabetical_order(tmp_path: Path) -> None:
    source = folder_source(_tree(tmp_path), 16, seed=0)
    assert source.classes == ("ant", "cat")
    # ant was written second, with 100 as red.
    assert {int(i[0, 0, 0]) for i in source.train.images[source.train.labels == 0]} == {100}
    assert source.train.images.shape[1:] == (16, 16, 3)


def test_a_fifth_of_each_class_is_the_test_part_and_follows_the_seed(tmp_path: Path) -> None:
    _tree(tmp_path)
    first, same, other = (folder_source(tmp_path, 8, seed=s) for s in (0, 0, 1))
    assert np.bincount(first.test.labels).tolist() == [2, 2]
    assert np.array_equal(first.test.images, same.test.images)
    assert not np.array_equal(first.test.images, other.test.images)


def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    _tree(tmp_path / "train", each=3)
    _tree(tmp_path / "test", each=2)
    source = folder_source(tmp_path, 8, seed=0)
    assert (len(source.train), len(source.test)) == (6, 4)


def test_the_central_square_is_cut(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    (tmp_path / "a").mkdir()
    for i in range(2):
        Image.fromarray(wide).save(tmp_path / "a" / f"{i}.png")
    source = folder_source(tmp_path, 16, seed=0)
    assert (source.train.images == 200).all()


def test_a_class_that_only_test_has_is_refused(tmp_path: Path) -> None:
    _tree(tmp_path / "train", each=2)
    _picture(tmp_path / "test" / "dog" / "0.jpg", 9, 9, (1, 2, 3))
    with pytest.raises(DataError, match="dog"):
        folder_source(tmp_path, 8, seed=0)


def test_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        folder_source(tmp_path / "none", 8, seed=0)
    with pytest.raises(DataError, match="no class folders"):
        folder_source(tmp_path, 8, seed=0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"no \.jpg or \.png"):
        folder_source(tmp_path, 8, seed=0)
    _picture(tmp_path / "a" / "0.png", 9, 9, (1, 2, 3))
    with pytest.raises(DataError, match="single picture"):
        folder_source(tmp_path, 8, seed=0)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_damaged_picture_is_named(tmp_path: Path, data: bytes) -> None:
    _tree(tmp_path)
    (tmp_path / "ant" / "3.png").write_bytes(data)
    with pytest.raises(DataError, match=r"3\.png cannot be decoded"):
        folder_source(tmp_path, 8, seed=0)


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    _tree(tmp_path)
    path = tmp_path / "ant" / "3.png"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"3\.png cannot be decoded"):
        folder_source(tmp_path, 8, seed=0)
