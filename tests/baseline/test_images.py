from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from baseline.images import ImageSet, content_keys
from records.errors import DataError


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 9, 3), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 1), np.int64)),
    ],
)
def test_an_image_set_refuses_other_shapes_and_dtypes(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(DataError, match="images"):
        ImageSet(images=images, labels=labels)


def test_take_follows_the_index() -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    taken = ImageSet(images, np.arange(4)).take(np.array([3, 1]))
    assert taken.labels.tolist() == [3, 1]
    assert taken.images[:, 0, 0, 0].tolist() == [3, 1]
    assert len(taken) == 2


@settings(deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 12), st.just(1), st.just(1), st.just(3)),
        elements=st.integers(0, 1),
    )
)
def test_keys_are_equal_exactly_when_images_are(images: np.ndarray) -> None:
    keys = content_keys(images)
    for i, first in enumerate(images):
        for j, second in enumerate(images):
            assert (keys[i] == keys[j]) == np.array_equal(first, second)


def test_keys_do_not_depend_on_the_memory_layout() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    assert content_keys(images) == content_keys(np.asfortranarray(images))
