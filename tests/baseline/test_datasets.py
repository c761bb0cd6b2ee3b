from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baseline.datasets import ImageSplits, load_splits, read_npz
from baseline.images import content_keys
from records.errors import DataError
from records.hashing import sha256_array
from records.recipe import DataRecipe
from tests.baseline.small_data import write_npz

SETS = ("train", "calibration", "attacker", "victim")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"npz:{write_npz(tmp_path_factory.mktemp('data') / 'd.npz', train=200)}"


def _keys(splits: ImageSplits) -> dict[str, set[bytes]]:
    return {name: set(content_keys(getattr(splits, name).images)) for name in SETS}


def _hashes(splits: ImageSplits) -> list[str]:
    return [getattr(splits.record, name).sha256 for name in SETS]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), calibration=st.integers(1, 60))
def test_sets_are_disjoint_whole_and_seeded(source: str, seed: int, calibration: int) -> None:
    recipe = DataRecipe(source=source, seed=seed, calibration=calibration)
    splits = load_splits(recipe)
    keys = _keys(splits)
    assert len(set().union(*keys.values())) == sum(len(getattr(splits, n)) for n in SETS) == 240
    assert _hashes(load_splits(recipe)) == _hashes(splits)
    other = load_splits(DataRecipe(source=source, seed=seed ^ 1, calibration=calibration))
    assert all(a != b for a, b in zip(_hashes(other), _hashes(splits), strict=True))


def test_the_record_hashes_images_and_labels(source: str) -> None:
    splits = load_splits(DataRecipe(source=source))
    for name in SETS:
        images, record = getattr(splits, name), getattr(splits.record, name)
        assert record.count == len(images)
        assert record.sha256 == sha256_array(images.images, images.labels)
    assert splits.record.source == source
    assert splits.record.classes == splits.classes


def test_labels_stay_with_their_images(source: str) -> None:
    arrays = read_npz(Path(source.partition(":")[2]))
    truth: dict[bytes, int] = {}
    for part in ("train", "test"):
        keys = content_keys(arrays[f"{part}_x"].view(np.uint8))
        truth |= dict(zip(keys, arrays[f"{part}_y"].tolist(), strict=True))
    splits = load_splits(DataRecipe(source=source, seed=5))
    for name in SETS:
        images = getattr(splits, name)
        assert [truth[key] for key in content_keys(images.images)] == images.labels.tolist()


def test_default_counts(source: str) -> None:
    counts = [len(getattr(load_splits(DataRecipe(source=source)), name)) for name in SETS]
    assert counts == [80, 20, 100, 40]


def test_asked_counts(source: str) -> None:
    recipe = DataRecipe(source=source, train=30, calibration=10, attacker=20, victims=15)
    assert [len(getattr(load_splits(recipe), name)) for name in SETS] == [30, 10, 20, 15]
    recipe = DataRecipe(source=source, train=30)
    assert [len(getattr(load_splits(recipe), name)) for name in SETS] == [30, 20, 150, 40]


@pytest.mark.parametrize(
    "counts",
    [
        {"train": 200},
        {"attacker": 200},
        {"calibration": 201},
        {"train": 100, "calibration": 1, "attacker": 100},
        {"victims": 41},
    ],
)
@pytest.mark.parametrize("pool", ["held-out", "train"])
def test_counts_beyond_the_source_are_refused(
    source: str, counts: dict[str, int], pool: str
) -> None:
    recipe = {"source": source, "attacker_pool": pool, **counts}
    if pool == "train" and max(counts.values()) <= 200 and "victims" not in counts:
        load_splits(DataRecipe(**recipe))  # type: ignore[arg-type]
        return
    with pytest.raises(DataError):
        load_splits(DataRecipe(**recipe))  # type: ignore[arg-type]


def test_with_the_train_pool_the_attacker_has_the_training_images(source: str) -> None:
    splits = load_splits(DataRecipe(source=source, attacker_pool="train", attacker=50))
    keys = _keys(splits)
    assert len(splits.train) == 200
    assert keys["calibration"] < keys["train"]
    assert keys["attacker"] < keys["train"]
    assert not keys["victim"] & keys["train"]
    whole = load_splits(DataRecipe(source=source, attacker_pool="train"))
    assert _keys(whole)["attacker"] == _keys(whole)["train"]


@pytest.mark.parametrize("pool", ["held-out", "train"])
def test_planted_duplicates_are_dropped_and_counted(tmp_path: Path, pool: str) -> None:
    path = write_npz(tmp_path / "d.npz")
    arrays = dict(read_npz(path))
    train_x = arrays["train_x"].copy()
    train_x[[3, 50]] = arrays["test_x"][[0, 1]]
    train_x[60] = train_x[61]
    train_y = arrays["train_y"].copy()
    train_y[3] = (train_y[3] + 1) % 4
    np.savez(path, **(arrays | {"train_x": train_x, "train_y": train_y}))  # type: ignore[arg-type]
    splits = load_splits(DataRecipe(source=f"npz:{path}", attacker_pool=pool))  # type: ignore[arg-type]
    victims = set(content_keys(splits.victim.images))
    others = [k for name in SETS[:3] for k in content_keys(getattr(splits, name).images)]
    assert victims.isdisjoint(others)
    if pool == "held-out":
        # The second copy of one train image could have stood in two sets.
        assert splits.record.dropped_duplicates == 3
        assert len(others) == len(set(others)) == 93
    else:
        assert splits.record.dropped_duplicates == 2
        assert len(splits.train) == 94


def test_another_native_size_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "d.npz", side=28)
    with pytest.raises(DataError, match="native_size = 28"):
        load_splits(DataRecipe(source=f"npz:{path}"))
    splits = load_splits(DataRecipe(source=f"npz:{path}", native_size=28))
    assert splits.record.native_size == 28


def test_train_and_test_of_different_sizes_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "d.npz")
    arrays = dict(read_npz(path)) | {"test_x": np.zeros((40, 16, 16, 3), np.uint8)}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="test images"):
        load_splits(DataRecipe(source=f"npz:{path}"))


def test_photos_by_default() -> None:
    splits = load_splits(DataRecipe())
    assert [len(getattr(splits, name)) for name in SETS] == [4000, 512, 3488, 2000]
    keys = _keys(splits)
    assert len(set().union(*keys.values())) == 10_000
    assert len(splits.classes) == 8
    assert splits.record.dropped_duplicates == 0


def test_photos_with_the_train_pool() -> None:
    splits = load_splits(DataRecipe(attacker_pool="train", train=400, victims=80, attacker=160))
    keys = _keys(splits)
    assert [len(getattr(splits, name)) for name in SETS] == [400, 40, 160, 80]
    assert not keys["victim"] & (keys["train"] | keys["attacker"])


def test_a_folder_source(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        for i in range(25):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    splits = load_splits(DataRecipe(source=f"folder:{tmp_path}", native_size=16))
    assert [len(getattr(splits, name)) for name in SETS] == [16, 4, 20, 10]
    assert splits.train.images.shape[1:] == (16, 16, 3)


def test_cifar_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--download"):
        load_splits(DataRecipe(source=f"cifar100:{tmp_path}"))
