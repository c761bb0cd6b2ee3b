"""Training: seeded to the bit, never on held-out images, best epoch kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from attack.cache import TensorCache
from attack.features import FeatureTable, float_table, wire_table
from attack.inversion import DecoderFamily, Tried, choose
from attack.training import divide, held_out_loss, rate_at, reconstruct
from records.manifest import WireTensor
from records.progress import silent
from records.recipe import AttackRecipe

RECIPE = AttackRecipe(max_epochs=3, batch_size=32, validation_share=0.2)


def family(
    folder: Path, images: npt.NDArray[np.uint8], recipe: AttackRecipe = RECIPE
) -> DecoderFamily:
    return DecoderFamily(recipe, images, TensorCache(folder), threads=1, progress=silent)


@pytest.fixture(scope="module")
def features(tiny_images: npt.NDArray[np.uint8]) -> FeatureTable:
    """Return a fixed non-linear shrinking of the images, float32 (256, 6, 8, 8)."""
    x = torch.from_numpy(tiny_images).permute(0, 3, 1, 2).float() / 255
    weight = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return float_table(torch.tanh(torch.nn.functional.conv2d(x, weight, stride=4)).numpy())


@pytest.fixture(scope="module")
def tried(
    features: FeatureTable,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Tried, ...]:
    return family(tmp_path_factory.mktemp("first"), tiny_images).from_scratch(features, 0, "x")


def test_the_family_is_constant_closed_form_and_trained(tried: tuple[Tried, ...]) -> None:
    assert [t.candidate.start for t in tried] == ["constant", "closed-form", "scratch"]
    constant, closed, trained = (t.candidate.best_val_loss for t in tried)
    assert closed < 0.5 * constant
    assert trained < constant
    last = tried[2].candidate
    assert last.best_val_loss == min(last.val_loss) == last.val_loss[last.best_epoch]


def test_the_loss_on_record_is_that_of_the_decoder_kept(
    tried: tuple[Tried, ...], features: FeatureTable, tiny_images: npt.NDArray[np.uint8]
) -> None:
    data = divide(features, tiny_images, RECIPE.validation_share, 0)
    for one in tried:
        assert held_out_loss(one.decoder, data) == pytest.approx(
            one.candidate.best_val_loss, rel=1e-5
        )
    images = reconstruct(tried[2].decoder, features)[data.held_out]
    truth = np.moveaxis(tiny_images[data.held_out], 3, 1) / 255.0
    plain = np.mean((np.clip(images, 0, 1) - truth) ** 2)
    assert plain == pytest.approx(tried[2].candidate.best_val_loss, rel=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    tried: tuple[Tried, ...],
    features: FeatureTable,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    made = family(tmp_path, tiny_images)
    again = made.from_scratch(features, 0, "x")
    other = made.from_scratch(features, 1, "x")
    same = reconstruct(again[2].decoder, features)
    assert np.array_equal(same, reconstruct(tried[2].decoder, features))
    assert again[2].candidate.val_loss == tried[2].candidate.val_loss
    assert not np.array_equal(same, reconstruct(other[2].decoder, features))


def test_a_cached_decoder_is_the_trained_one(
    features: FeatureTable, tiny_images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    first = family(tmp_path, tiny_images).from_scratch(features, 0, "x")
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    again = family(tmp_path, tiny_images).from_scratch(features, 0, "x")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == files
    for one, two in zip(first, again, strict=True):
        assert one.candidate == two.candidate
        assert np.array_equal(
            reconstruct(one.decoder, features), reconstruct(two.decoder, features)
        )


def test_settings_that_decide_a_training_make_another_entry(
    features: FeatureTable, tiny_images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    family(tmp_path, tiny_images).from_scratch(features, 0, "x")
    before = len(list(tmp_path.rglob("*.safetensors")))
    shorter = AttackRecipe(max_epochs=1, batch_size=32, validation_share=0.2)
    (*_, last) = family(tmp_path, tiny_images, shorter).from_scratch(features, 0, "x")
    assert last.candidate.epochs == 1
    assert len(list(tmp_path.rglob("*.safetensors"))) == before + 1


def test_fine_tuning_starts_from_what_it_is_given(
    tried: tuple[Tried, ...],
    features: FeatureTable,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    made = family(tmp_path, tiny_images)
    before = reconstruct(tried[2].decoder, features)
    (tuned,) = made.fine_tuned(features, 0, tried, "x")
    assert tuned.candidate.start == "fine-tuned"
    assert tuned.candidate.best_val_loss < 1.1 * tried[2].candidate.best_val_loss
    assert np.array_equal(before, reconstruct(tried[2].decoder, features))
    kept = made.unchanged(features, 0, tried[2])
    assert kept.candidate.best_val_loss == pytest.approx(tried[2].candidate.best_val_loss)


def test_fine_tuning_keeps_the_closed_form_wherever_its_start_came_from(
    features: FeatureTable, tiny_images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    fresh = family(tmp_path / "a", tiny_images).from_scratch(features, 0, "x")
    cached = family(tmp_path / "a", tiny_images).from_scratch(features, 0, "x")
    (one,) = family(tmp_path / "b", tiny_images).fine_tuned(features, 0, fresh, "x")
    (two,) = family(tmp_path / "c", tiny_images).fine_tuned(features, 0, cached, "x")
    assert torch.equal(one.decoder.path.weight, fresh[2].decoder.path.weight)
    assert one.candidate.val_loss == two.candidate.val_loss
    assert np.array_equal(reconstruct(one.decoder, features), reconstruct(two.decoder, features))


def test_noise_leaves_the_mean_image_as_the_best(
    tiny_images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).standard_normal((256, 6, 8, 8)).astype(np.float32)
    made = family(tmp_path, tiny_images).from_scratch(float_table(noise), 0, "x")
    assert made[choose(made)].candidate.best_val_loss <= made[0].candidate.best_val_loss
    assert made[1].candidate.best_val_loss > 0.9 * made[0].candidate.best_val_loss


def test_patience_ends_a_training_that_no_longer_improves(
    tiny_images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).standard_normal((256, 6, 8, 8)).astype(np.float32)
    recipe = AttackRecipe(max_epochs=12, patience=1, batch_size=64, validation_share=0.2)
    (*_, last) = family(tmp_path, tiny_images, recipe).from_scratch(float_table(noise), 0, "x")
    assert last.candidate.stopped == "patience"
    assert last.candidate.epochs < 12


def test_held_out_images_are_never_trained_on(
    features: FeatureTable, tiny_images: npt.NDArray[np.uint8]
) -> None:
    data = divide(features, tiny_images, 0.1, 7)
    assert sorted([*data.train, *data.held_out]) == list(range(256))
    assert len(data.held_out) == 26
    assert len(divide(features, tiny_images[:2], 0.49, 0).train) == 1
    assert len(divide(features, tiny_images[:2], 0.01, 0).held_out) == 1


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    rates = [rate_at(step, 100, 2.0) for step in range(100)]
    assert max(rates) == pytest.approx(2.0, rel=0.01)
    assert 15 <= int(np.argmax(rates)) <= 25
    assert rates[0] == pytest.approx(0.08)
    assert rates[-1] < 0.01
    assert rate_at(0, 1, 2.0) > 0


def test_a_table_dequantizes_what_was_sent() -> None:
    wire = WireTensor(shape=(2,), scale=0.5, zero_point=3)
    table = wire_table(np.array([[3, 5], [0, 255]], dtype=np.uint8), wire)
    assert torch.equal(table.real(slice(None)), torch.tensor([[0.0, 1.0], [-1.5, 126.0]]))
    other = WireTensor(shape=(2,), scale=0.25, zero_point=3)
    assert wire_table(table.values, other).sha256 != table.sha256
