"""A2 sharpens A1's output through the edge's weights, and keeps it where it cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from attack.adaptive import AdaptiveAttack
from attack.cache import TensorCache
from attack.differentiable import DifferentiableEdge
from attack.features import Target, target_of
from attack.inversion import DecoderFamily
from attack.metrics import Images, as_unit_images, score
from attack.static import StaticAttack
from attack.whitebox import (
    CONFIRMED_IMAGES,
    NOISES,
    TUNED_IMAGES,
    WhiteBox,
    WhiteBoxAttack,
    _best_noise,
    _Problem,
    _thirds,
    total_variation,
    typical_mse,
)
from baseline.images import ImageSet
from export.bundle import Bundle
from records.progress import silent
from records.recipe import AttackRecipe
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from torch import nn

RECIPE = AttackRecipe(
    levels=("A0", "A1", "A2"), max_epochs=2, batch_size=32, white_box_iterations=50
)


@dataclass(frozen=True)
class Setup:
    bundle: Bundle
    attacker: ImageSet
    victims: Images
    targets: dict[str, Target]
    adaptive: AdaptiveAttack
    cache: TensorCache

    def known(self, target: Target) -> WhiteBox:
        name = "edge_fp32_onnx" if target.precision == "fp32" else "edge_int8_onnx"
        edge = DifferentiableEdge(self.bundle.read(self.bundle.artifact(name)), name)
        return WhiteBox(edge, self.bundle.manifest.preprocessing)

    def attack(self, cache: TensorCache, **changes: object) -> WhiteBoxAttack:
        known = changes.get("known", self.known)
        assert callable(known)
        return WhiteBoxAttack(
            self.adaptive,
            known,
            self.attacker.images,
            RECIPE,
            cache,
            threads=1,
            progress=silent,
        )


@pytest.fixture(scope="module")
def setup(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Setup:
    folder = tmp_path_factory.mktemp("whitebox")
    bundle, _ = tiny_bundle(folder, tiny_model, tiny_images)
    labels = np.zeros(256, np.int64)
    attacker = ImageSet(tiny_images[:232], labels[:232])
    victim = ImageSet(tiny_images[232:], labels[232:])
    cache = TensorCache(folder / "cache")
    targets = {
        name: target_of(bundle, bundle.artifact(name), attacker, victim, cache)
        for name in ("edge_fp32_onnx", "edge_int8_lite")
    }
    family = DecoderFamily(RECIPE, attacker.images, cache, threads=1, progress=silent)
    adaptive = AdaptiveAttack(family, StaticAttack(family, targets["edge_fp32_onnx"]))
    return Setup(bundle, attacker, as_unit_images(victim.images), targets, adaptive, cache)


@pytest.mark.parametrize("name", ["edge_fp32_onnx", "edge_int8_lite"])
def test_it_beats_a1_on_the_same_images_and_is_read_again_from_the_cache(
    setup: Setup, name: str
) -> None:
    target = setup.targets[name]
    before = setup.adaptive.attack(target, setup.victims, 0)
    after = setup.attack(setup.cache).attack(target, setup.victims, 0)
    assert after.scores.psnr.mean() - before.scores.psnr.mean() > 0.3
    chosen = after.candidates[after.chosen]
    assert chosen.start in ("a1-output", "mean-image")
    finalists = after.candidates[-2:]
    assert chosen.best_val_loss == min(c.best_val_loss for c in finalists)
    assert [c.start for c in finalists] == ["unchanged", chosen.start]
    assert after.candidates[0].start == "unchanged"

    def forbidden(_: Target) -> WhiteBox:
        raise AssertionError("the cache was not read")

    again = setup.attack(setup.cache, known=forbidden).attack(target, setup.victims, 0)
    assert np.array_equal(again.images, after.images)
    assert again.candidates == after.candidates


def test_with_weights_that_are_not_the_artifact_s_a1_s_output_is_kept(
    setup: Setup, tmp_path: Path
) -> None:
    def wrong(target: Target) -> WhiteBox:
        right = setup.known(target)
        rng = torch.Generator().manual_seed(0)
        noise = torch.randn(target.victim.boundary, generator=rng)

        class Shuffled(WhiteBox):
            def features(self, images: torch.Tensor) -> torch.Tensor:
                return right.features(images.flip(3)) * noise

        return Shuffled(right.edge, right.preprocessing)

    target = setup.targets["edge_fp32_onnx"]
    a1 = setup.adaptive.attack(target, setup.victims, 0)
    a2 = setup.attack(TensorCache(tmp_path), known=wrong).attack(target, setup.victims, 0)
    assert a2.candidates[a2.chosen].start == "unchanged"
    assert np.allclose(a2.scores.psnr, a1.scores.psnr, atol=1e-4)


def test_a_descent_that_only_the_tuning_liked_is_not_used(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = _Problem.solve

    def worse_with_all_its_iterations(self: _Problem, *args: Any, **keywords: Any) -> torch.Tensor:
        found = solve(self, *args, **keywords)
        share, moved = args[2], args[1].start != "unchanged"
        return 1.0 - found if share == 1.0 and moved else found

    monkeypatch.setattr(_Problem, "solve", worse_with_all_its_iterations)
    target = setup.targets["edge_fp32_onnx"]
    a2 = setup.attack(TensorCache(tmp_path)).attack(target, setup.victims, 0)
    tried = a2.candidates[:-2]
    assert min(tried, key=lambda c: c.best_val_loss).start != "unchanged"
    assert a2.candidates[a2.chosen].start == "unchanged"


def test_what_is_tuned_on_is_not_what_confirms_nor_what_the_prior_knows() -> None:
    parts = _thirds(np.arange(1000))
    assert [len(part) for part in parts] == [TUNED_IMAGES, CONFIRMED_IMAGES, 904]
    assert len(np.unique(np.concatenate(parts))) == 1000


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_few_images_serve_twice(count: int) -> None:
    assert all(len(part) > 0 for part in _thirds(np.arange(count)))


def test_the_typical_mse_is_that_of_the_mean_psnr() -> None:
    rng = np.random.default_rng(0)
    x, truth = rng.uniform(0, 1, (2, 5, 3, 8, 8)).astype(np.float32)
    decibels = [
        peak_signal_noise_ratio(t, v, data_range=1.0)  # type: ignore[no-untyped-call]
        for t, v in zip(truth, x, strict=True)
    ]
    found = typical_mse(torch.from_numpy(x), torch.from_numpy(truth))
    assert -10 * math.log10(found) == pytest.approx(np.mean(decibels), abs=1e-4)


def test_the_features_explain_what_was_sent_better_than_a1_s(setup: Setup) -> None:
    target = setup.targets["edge_fp32_onnx"]
    box, sent = setup.known(target), target.victim.real(slice(None))
    a1 = setup.adaptive.run(target, 0).images.clip(0, 1)
    a2 = setup.attack(setup.cache).run(target, 0).images
    with torch.no_grad():
        errors = [
            float((box.features(torch.from_numpy(x)) - sent).square().mean()) for x in (a1, a2)
        ]
        truth = float((box.features(torch.from_numpy(setup.victims)) - sent).square().mean())
    assert truth < 1e-8
    assert errors[1] < 0.5 * errors[0]
    assert score(setup.victims, a2).psnr.mean() > 0


def test_total_variation_is_that_of_numpy() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (3, 3, 6, 5))
    down, right = np.diff(x, axis=2)[..., :-1], np.diff(x, axis=3)[:, :, :-1]
    expected = np.sqrt(down**2 + right**2 + 1e-4).sum((1, 2, 3))
    assert total_variation(torch.from_numpy(x)).numpy() == pytest.approx(expected)


@pytest.mark.parametrize("best", NOISES)
def test_the_search_finds_the_best_noise_wherever_it_is(best: float) -> None:
    asked: list[float] = []

    def loss(noise: float) -> float:
        asked.append(noise)
        return abs(math.log(noise / best))

    assert _best_noise(loss) == best
    assert len(asked) == len(set(asked))
