"""A2: gradient descent on the image through the edge's own weights and scales.

Minimises, for each image, ‖Q(f(x)) − z‖² / σ² + ‖u‖² + λ·TV(x) over x = start + change(u)
(He, Zhang and Lee 2019, "Model inversion attacks against collaborative inference", rMLE; here with
a prior around the start, so that it is a maximum a posteriori estimate). Features are compared in
units of each channel's standard deviation. Starts are A1's output and the mean image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from attack.adaptive import AdaptiveAttack
from attack.base import Attack, Attempt
from attack.cache import TensorCache
from attack.decoder import Decoder, statistics_of, tensors_of
from attack.differentiable import DifferentiableEdge
from attack.features import Target
from attack.residual_prior import ResidualPrior
from attack.training import TrainingSet, divide, torch_threads
from records.attack import Candidate, Level, Start
from records.hashing import sha256_array
from records.manifest import Preprocessing
from records.progress import Progress
from records.recipe import AttackRecipe

#: Changes whenever an older cached result would no longer be what this code computes.
VERSION = 5
#: The attacker's own held-out images on which the settings are tried, and the others on which
#: the best one, with all its iterations and restarts, has to beat A1's output.
TUNED_IMAGES = 32
CONFIRMED_IMAGES = 64
#: σ², as a share of a channel's variance: how far the features are trusted over the prior. The
#: search begins in the middle and goes on in the direction that helps.
NOISES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
_FIRST_NOISE = NOISES.index(0.1)
#: λ: total variation per image, in the units of the pixel values' sum.
TV_WEIGHTS = (1.0, 3.0, 10.0, 30.0)
#: Restarts after the first one, which begins at the start itself, from a draw of the prior.
RESTARTS = 2
_RESTART_SPREAD = 0.5
_TUNING_SHARE = 0.4
_MOST_TRIED = 2 + len(NOISES) + len(TV_WEIGHTS)
_RATE = 0.2
_MOST_RESIDUALS = 4000
_BATCH = 64
_TV_SMOOTHING = 1e-4
#: An image that is recovered exactly would make the mean of logarithms infinite.
_LEAST_MSE = 1e-12

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class WhiteBox:
    """What the attacker knows about the edge.

    Attributes:
        edge: its graph, differentiable.
        preprocessing: from the native image to the edge's input.
    """

    edge: DifferentiableEdge
    preprocessing: Preprocessing

    def features(self, images: Tensor) -> Tensor:
        """Return the boundary, float32 (N, *boundary), of images (N, 3, H, H) in [0, 1]."""
        spec = self.preprocessing
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std))
        normal = (images - mean) / std
        if spec.image_size != spec.native_size:
            size = (spec.image_size, spec.image_size)
            normal = interpolate(normal, size=size, mode="bilinear", align_corners=False)
        return self.edge(normal)


class _Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One way to attack; ``start`` ``unchanged`` leaves A1's output as it is."""

    start: Start
    noise: float = 0.0
    tv: float = 0.0


@dataclass(frozen=True)
class _Guess:
    """A start: one image for each attacked image, and how the truth is spread around it."""

    images: Tensor
    prior: ResidualPrior


class WhiteBoxAttack(Attack):
    """The attacker who has the artifact's weights, scales and zero points.

    Everything that has to be chosen is chosen by the error on held-out attacker images: the start,
    σ² and λ, and then, on others of them, whether to move away from A1's output at all. A descent
    fits the features ever better, and past a point the image ever worse.
    """

    level: ClassVar[Level] = "A2"

    def __init__(
        self,
        adaptive: AdaptiveAttack,
        known: Callable[[Target], WhiteBox],
        images: NDArray[np.uint8],
        recipe: AttackRecipe,
        cache: TensorCache,
        *,
        threads: int,
        progress: Progress,
    ) -> None:
        """Start from ``adaptive``'s output.

        Args:
            adaptive: A1.
            known: the white box of a target.
            images: the attacker's, uint8 (N, H, W, 3).
            recipe: iterations, and the held-out share.
            cache: where results are kept.
            threads: torch's; the bits of the result depend on them.
            progress: called once a setting and batch.
        """
        self._adaptive, self._known, self._images = adaptive, known, images
        self._recipe, self._cache, self._threads = recipe, cache, threads
        self._progress = progress
        self._images_sha256 = sha256_array(images)

    def run(self, target: Target, seed: int) -> Attempt:
        """Choose settings on held-out images, then descend on every victim of the target."""
        decoder = self._adaptive.best(target, seed).decoder
        cause = self._cause(target, seed, decoder)
        stored = self._cache.get(cause)
        if stored is None:
            with torch_threads(self._threads):
                attempt = self._descend(target, seed, decoder)
            meta = _Stored(candidates=attempt.candidates, chosen=attempt.chosen)
            self._cache.put(cause, {"images": attempt.images}, msgspec.to_builtins(meta))
            return attempt
        kept = msgspec.convert(stored[1], type=_Stored)
        return Attempt(images=stored[0]["images"], candidates=kept.candidates, chosen=kept.chosen)

    def _descend(self, target: Target, seed: int, decoder: Decoder) -> Attempt:
        data = divide(target.attacker, self._images, self._recipe.validation_share, seed)
        problem = _Problem(data, decoder, self._known(target), self._recipe.white_box_iterations)
        candidates = self._tune(problem, target.name, seed)
        moved = min(candidates[1:], key=lambda c: c.best_val_loss)
        finalists = [
            problem.candidate(_setting_of(c), seed, confirm=True) for c in (candidates[0], moved)
        ]
        losses = [finalist.best_val_loss for finalist in finalists]
        chosen = len(candidates) + losses.index(min(losses))
        candidates += finalists
        setting = _setting_of(candidates[chosen])
        parts, total = [], -(-len(target.victim) // _BATCH)
        for step in range(total):
            index = slice(step * _BATCH, (step + 1) * _BATCH)
            parts.append(problem.solve(target.victim.real(index), setting, 1.0, (seed, 5, step)))
            self._progress(f"A2 on {target.name}: victims", step + 1, total)
        return Attempt(images=torch.cat(parts).numpy(), candidates=tuple(candidates), chosen=chosen)

    def _tune(self, problem: _Problem, name: str, seed: int) -> list[Candidate]:
        """Try A1's output itself, σ² from there, the mean image with the best σ², then λ."""
        found: list[Candidate] = []

        def tried(setting: _Setting) -> float:
            found.append(problem.candidate(setting, seed))
            self._progress(f"A2 on {name}: settings", len(found), _MOST_TRIED)
            return found[-1].best_val_loss

        tried(_Setting(start="unchanged"))
        best = _best_noise(lambda noise: tried(_Setting(start="a1-output", noise=noise)))
        tried(_Setting(start="mean-image", noise=best))
        moved = min(found[1:], key=lambda c: c.best_val_loss)
        # Where no descent helps, a smoother one would not either.
        if moved.best_val_loss < found[0].best_val_loss:
            lowest = moved.best_val_loss
            for weight in TV_WEIGHTS:
                loss = tried(msgspec.structs.replace(_setting_of(moved), tv=weight))
                if loss >= lowest:
                    break
                lowest = loss
        self._progress(f"A2 on {name}: settings", _MOST_TRIED, _MOST_TRIED)
        return found

    def _cause(self, target: Target, seed: int, decoder: Decoder) -> dict[str, Any]:
        return {
            "kind": f"white-box/{VERSION}",
            "target": target.sha256,
            "precision": target.precision,
            "images": self._images_sha256,
            "decoder": sha256_array(*(a for _, a in sorted(tensors_of(decoder).items()))),
            "seed": seed,
            "iterations": self._recipe.white_box_iterations,
            "held_out": self._recipe.validation_share,
            "threads": self._threads,
            "torch": [str(torch.__version__), torch.backends.cpu.get_cpu_capability()],
        }


class _Problem:
    """The attacker's knowledge about one target, and the descent itself."""

    def __init__(
        self, data: TrainingSet, decoder: Decoder, known: WhiteBox, iterations: int
    ) -> None:
        self._decoder, self._known, self._iterations = decoder, known, iterations
        # A quarter of the held-out images tells which settings are good, another one whether the
        # best of them is, the rest how A1 errs.
        tuned, confirmed, spread = _thirds(data.held_out)
        self._tuned, self._confirmed = data.pairs(tuned), data.pairs(confirmed)
        features, images = data.pairs(spread)
        _, self._weight = statistics_of(data.features.real(data.train[:_MOST_RESIDUALS]))
        if features.ndim == 4:
            self._weight = self._weight[:, None, None]
        self._a1_prior = ResidualPrior(images - self._decoded(features))
        known_images = data.pairs(data.train[:_MOST_RESIDUALS])[1]
        self._mean = known_images.mean(0, keepdim=True)
        self._mean_prior = ResidualPrior(known_images - self._mean)

    def candidate(self, setting: _Setting, seed: int, *, confirm: bool = False) -> Candidate:
        """Return the record of one setting, tried on held-out images.

        Args:
            setting: what to try.
            seed: of the restarts.
            confirm: with all iterations and restarts, as on the victims, on the other images.
        """
        started = time.perf_counter()
        (z, truth) = self._confirmed if confirm else self._tuned
        share, restarts = (1.0, RESTARTS) if confirm else (_TUNING_SHARE, 0)
        loss = typical_mse(self.solve(z, setting, share, (seed, 4), restarts=restarts), truth)
        moved = setting.start != "unchanged"
        return Candidate(
            start=setting.start,
            capacity="image",
            parameters=truth[0].numel() if moved else 0,
            epochs=self._steps(share) if moved else 0,
            best_epoch=0,
            best_val_loss=loss,
            val_loss=(loss,),
            stopped="max-epochs" if moved else "not-trained",
            noise=setting.noise,
            tv=setting.tv,
            seconds=time.perf_counter() - started,
        )

    def solve(
        self,
        z: Tensor,
        setting: _Setting,
        share: float,
        seed: tuple[int, ...],
        *,
        restarts: int = RESTARTS,
    ) -> Tensor:
        """Return images (N, 3, H, H) in [0, 1]; per image the restart with the lowest objective.

        Args:
            z: float32 (N, *boundary), as observed.
            setting: start and weights.
            share: of the recipe's iterations.
            seed: of the restarts.
            restarts: after the first descent.
        """
        if setting.start == "unchanged":
            return self._decoded(z)
        guess = self._guess(setting.start, z)
        rng = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        best, lowest = self._descent(z, guess, setting, share, torch.zeros_like(guess.images))
        for _ in range(restarts):
            u = _RESTART_SPREAD * torch.randn(guess.images.shape, generator=rng)
            found, objective = self._descent(z, guess, setting, share, u)
            better = objective < lowest
            best[better], lowest[better] = found[better], objective[better]
        return best

    def _descent(
        self, z: Tensor, guess: _Guess, setting: _Setting, share: float, u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return images in [0, 1] and the objective of each, by Adam with a cosine rate."""
        u = u.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([u], lr=_RATE, betas=(0.9, 0.99))
        steps = self._steps(share)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad(set_to_none=True)
            x = guess.images + guess.prior.change(u)
            self._objective(x, u, z, setting).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            x = guess.images + guess.prior.change(u)
            return x.clamp(0.0, 1.0), self._objective(x, u, z, setting)

    def _objective(self, x: Tensor, u: Tensor, z: Tensor, setting: _Setting) -> Tensor:
        """Return −2·log posterior of each image (up to a constant), float32 (N,)."""
        error = ((self._known.features(x) - z) * self._weight).square().flatten(1).sum(1)
        total = error / setting.noise + u.square().flatten(1).sum(1)
        return total + setting.tv * total_variation(x) if setting.tv else total

    def _guess(self, start: Start, z: Tensor) -> _Guess:
        if start == "mean-image":
            return _Guess(self._mean.repeat(len(z), 1, 1, 1), self._mean_prior)
        return _Guess(self._decoded(z), self._a1_prior)

    def _decoded(self, z: Tensor) -> Tensor:
        self._decoder.eval()
        with torch.no_grad():
            return torch.cat([self._decoder(part).clamp(0.0, 1.0) for part in torch.split(z, 500)])

    def _steps(self, share: float) -> int:
        return max(1, round(share * self._iterations))


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a cached attack."""

    candidates: tuple[Candidate, ...]
    chosen: int


def typical_mse(x: Tensor, truth: Tensor) -> float:
    """Return the geometric mean over images of the MSE: −10·log10 of it is the mean PSNR in dB.

    Args:
        x: images (N, C, H, W) in [0, 1].
        truth: what they should be.
    """
    each = (x - truth).square().flatten(1).mean(1, dtype=torch.float64)
    return float(each.clamp(min=_LEAST_MSE).log().mean().exp())


def total_variation(x: Tensor) -> Tensor:
    """Return the isotropic total variation of each image, (N, C, H, W) → (N,).

    Rudin, Osher and Fatemi 1992, smoothed at zero: Σ √(Δx² + Δy² + 1e-4).
    """
    down = x[:, :, 1:, :-1] - x[:, :, :-1, :-1]
    right = x[:, :, :-1, 1:] - x[:, :, :-1, :-1]
    return (down.square() + right.square() + _TV_SMOOTHING).sqrt().flatten(1).sum(1)


def _best_noise(loss_of: Callable[[float], float]) -> float:
    """Return the σ² with the lowest loss, going from the first one downhill in both directions."""
    losses = {_FIRST_NOISE: loss_of(NOISES[_FIRST_NOISE])}
    for direction in (1, -1):
        at = _FIRST_NOISE
        while 0 <= at + direction < len(NOISES):
            losses[at + direction] = loss_of(NOISES[at + direction])
            if losses[at + direction] >= losses[at]:
                break
            at += direction
        if at != _FIRST_NOISE:
            break
    return NOISES[min(losses, key=lambda k: losses[k])]


def _thirds(held_out: NDArray[np.intp]) -> tuple[NDArray[np.intp], ...]:
    """Return the images to tune on, to confirm on, and the rest; few images serve twice."""
    quarter = max(1, len(held_out) // 4)
    tuned = min(TUNED_IMAGES, quarter)
    confirmed = min(CONFIRMED_IMAGES, quarter)
    rest = held_out[tuned + confirmed :][:_MOST_RESIDUALS]
    confirm = held_out[tuned : tuned + confirmed]
    return held_out[:tuned], confirm if len(confirm) else held_out, rest if len(rest) else held_out


def _setting_of(candidate: Candidate) -> _Setting:
    return _Setting(start=candidate.start, noise=candidate.noise or 0.0, tv=candidate.tv or 0.0)
