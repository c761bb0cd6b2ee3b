from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from baseline.augment import batch_count, batches_of, crop_padding, plan_epoch
from baseline.images import ImageSet
from tests.baseline.small_data import coloured_images


@settings(deadline=None)
@given(images=st.integers(2, 5000), batch_size=st.integers(1, 600))
def test_no_batch_is_tiny_and_every_image_is_used(images: int, batch_size: int) -> None:
    plan = plan_epoch(images, 32, batch_size, augment=True, seed=0, epoch=0)
    sizes = [len(batch) for batch in plan.batches]
    assert len(sizes) == batch_count(images, batch_size)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    assert max(sizes) <= max(batch_size, 3)
    assert sorted(np.concatenate(plan.batches).tolist()) == list(range(images))


@settings(deadline=None)
@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_a_plan_is_a_function_of_seed_and_epoch(seed: int, epoch: int) -> None:
    first, same, later, other = (
        plan_epoch(200, 32, 50, augment=True, seed=s, epoch=e)
        for s, e in ((seed, epoch), (seed, epoch), (seed, epoch + 1), (seed ^ 1, epoch))
    )
    assert np.array_equal(first.shifts, same.shifts)
    assert np.array_equal(first.flips, same.flips)
    assert np.array_equal(first.batches[0], same.batches[0])
    for plan in (later, other):
        assert not np.array_equal(first.batches[0], plan.batches[0])
        assert not np.array_equal(first.shifts, plan.shifts)


def test_batches_equal_a_plain_pad_crop_flip() -> None:
    images = ImageSet(*coloured_images(30, 3, 16, seed=0))
    plan = plan_epoch(30, 16, 8, augment=True, seed=3, epoch=1)
    padding = crop_padding(16)
    assert padding == 2
    seen = 0
    for index, made in zip(plan.batches, batches_of(images, plan), strict=True):
        batch, labels = made.images, made.labels
        assert made.pasted_share == 0.0
        for place, i in enumerate(index):
            padded = np.zeros((20, 20, 3), np.uint8)
            padded[2:18, 2:18] = images.images[i]
            row, column = plan.shifts[i]
            crop = padded[row : row + 16, column : column + 16]
            crop = crop[:, ::-1] if plan.flips[i] else crop
            assert np.array_equal(batch[place], crop.transpose(2, 0, 1))
            assert labels[place] == images.labels[i]
            seen += 1
    assert seen == 30
    assert set(plan.shifts.ravel().tolist()) == {0, 1, 2, 3, 4}
    assert 5 < plan.flips.sum() < 25


def test_without_augmentation_images_are_only_shuffled() -> None:
    images = ImageSet(*coloured_images(30, 3, 16, seed=0))
    plan = plan_epoch(30, 16, 8, augment=False, seed=3, epoch=1)
    batches = np.concatenate([batch.images for batch in batches_of(images, plan)])
    order = np.concatenate(plan.batches)
    assert np.array_equal(batches.transpose(0, 2, 3, 1), images.images[order])
    assert not np.array_equal(order, np.arange(30))


def test_cutmix_pastes_a_box_of_the_next_image_and_weighs_its_label() -> None:
    images = ImageSet(*coloured_images(400, 3, 16, seed=0))
    plain = plan_epoch(400, 16, 4, augment=False, seed=3, epoch=1)
    mixed = plan_epoch(400, 16, 4, augment=False, cutmix=0.7, seed=3, epoch=1)
    assert 50 < sum(box is not None for box in mixed.boxes) < 90
    shares = []
    for box, before, after in zip(
        mixed.boxes, batches_of(images, plain), batches_of(images, mixed), strict=True
    ):
        inside = np.zeros((16, 16), bool)
        if box is not None:
            inside[box.top : box.bottom, box.left : box.right] = True
            shares.append(after.pasted_share)
        following = np.roll(np.arange(len(before.labels)), -1)
        expected = np.where(inside, before.images[following], before.images)
        assert np.array_equal(after.images, expected)
        assert after.pasted_share == inside.mean()
        assert np.array_equal(after.labels, before.labels)
        assert np.array_equal(after.pasted_labels, before.labels[following])
    # A uniform share of the area, less what the border cuts off.
    assert 0.2 < np.mean(shares) < 0.5
    assert max(shares) > 0.6
