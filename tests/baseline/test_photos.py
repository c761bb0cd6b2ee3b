from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from baseline.photos import (
    BLANK_LEVELS,
    PHOTOGRAPHS,
    Patches,
    assign_blocks,
    cut_patches,
    read_photograph,
    usable_positions,
)
from records.errors import DataError

COUNTS = {"train": 400, "calibration": 64, "attacker": 360, "victim": 200}


@pytest.fixture(scope="module")
def cut() -> dict[str, Patches]:
    return cut_patches(COUNTS, 32, seed=0)


def _covered(patches: Patches, label: int, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape[:2], dtype=bool)
    for row, column in patches.corners[patches.images.labels == label]:
        mask[row : row + 32, column : column + 32] = True
    return mask


@pytest.mark.parametrize("label", range(len(PHOTOGRAPHS)))
def test_no_pixel_belongs_to_two_roles(cut: dict[str, Patches], label: int) -> None:
    shape = read_photograph(label).shape
    masks = {role: _covered(patches, label, shape) for role, patches in cut.items()}
    for first, second in combinations(masks, 2):
        assert not (masks[first] & masks[second]).any(), (first, second)


@pytest.mark.parametrize("label", range(len(PHOTOGRAPHS)))
def test_a_patch_is_what_stands_at_its_corner(cut: dict[str, Patches], label: int) -> None:
    picture = read_photograph(label)
    for patches in cut.values():
        mine = patches.images.labels == label
        for image, (row, column) in zip(
            patches.images.images[mine], patches.corners[mine], strict=True
        ):
            assert np.array_equal(image, picture[row : row + 32, column : column + 32])


def test_classes_are_equal_and_no_patch_is_there_twice(cut: dict[str, Patches]) -> None:
    for role, count in COUNTS.items():
        assert np.bincount(cut[role].images.labels).tolist() == [count // 8] * 8
    contents = [image.tobytes() for patches in cut.values() for image in patches.images.images]
    assert len(set(contents)) == sum(COUNTS.values())


def test_no_patch_is_near_blank(cut: dict[str, Patches]) -> None:
    for patches in cut.values():
        variances = patches.images.images.astype(np.float64).var(axis=(1, 2)).mean(axis=1)
        assert np.sqrt(variances).min() >= BLANK_LEVELS * (1 - 1e-12)


def test_the_seed_decides(cut: dict[str, Patches]) -> None:
    same, other = cut_patches(COUNTS, 32, seed=0), cut_patches(COUNTS, 32, seed=1)
    for role in COUNTS:
        assert np.array_equal(same[role].images.images, cut[role].images.images)
        assert np.array_equal(same[role].images.labels, cut[role].images.labels)
        assert not np.array_equal(other[role].images.images, cut[role].images.images)


def test_a_patch_may_cross_blocks_of_its_own_role_only() -> None:
    crossing = 0
    cut = cut_patches({"train": 800, "victim": 80}, 32, seed=0)
    for label in range(len(PHOTOGRAPHS)):
        width = read_photograph(label).shape[1]
        edge = [width * k // (width // 64) for k in range(width // 64 + 1)]
        columns = cut["train"].corners[cut["train"].images.labels == label][:, 1]
        crossing += sum(any(c < e < c + 32 for e in edge) for c in columns)
    assert crossing > 100


def test_a_remainder_is_spread_over_the_first_photographs() -> None:
    cut = cut_patches({"train": 10, "victim": 8}, 32, seed=0)
    assert np.bincount(cut["train"].images.labels).tolist() == [2, 2, 1, 1, 1, 1, 1, 1]


def test_usable_positions_equal_the_definition() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((40, 50, 3), 90, np.uint8)
    flat[:, 25:] = rng.integers(80, 101, (40, 25, 3))
    usable = usable_positions(flat, 8)
    assert usable.shape == (33, 43)
    patches = sliding_window_view(flat.astype(np.float64), (8, 8), axis=(0, 1))
    spread = np.sqrt(patches.var(axis=(3, 4)).mean(axis=2))
    assert np.array_equal(usable, spread >= BLANK_LEVELS)
    assert usable.any()
    assert not usable.all()


def test_every_block_has_one_owner_and_shares_follow_the_counts() -> None:
    usable = np.ones((225, 289), dtype=bool)
    owners = assign_blocks(usable, (256, 320), {"a": 300, "b": 100}, 32, seed=(0,))
    tiles = owners.reshape(4, 64, 5, 64).swapaxes(1, 2).reshape(20, -1)
    assert (tiles == tiles[:, :1]).all()
    assert np.bincount(tiles[:, 0]).tolist() == [15, 5]


def test_a_blank_block_is_owned_by_nobody() -> None:
    usable = np.zeros((97, 97), dtype=bool)
    usable[:33] = True
    owners = assign_blocks(usable, (128, 128), {"a": 1, "b": 1}, 32, seed=(0,))
    assert (owners[64:] == -1).all()
    assert set(np.unique(owners[:64])) == {0, 1}


@pytest.mark.parametrize(("counts", "size"), [({"a": 1, "b": 1}, 320), ({"a": 1, "b": 1}, 256)])
def test_too_large_patches_are_refused(counts: dict[str, int], size: int) -> None:
    with pytest.raises(DataError, match=f"{size} px"):
        cut_patches(counts, size, seed=0)


def test_more_patches_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than"):
        cut_patches({"a": 8_000_000, "b": 8}, 64, seed=0)
