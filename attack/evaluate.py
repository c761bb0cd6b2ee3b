"""One attack on one bundle: every INT8 artifact's own outputs, controls, verdict, pictures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from attack.adaptive import AdaptiveAttack
from attack.base import Attack, Outcome
from attack.cache import TensorCache
from attack.controls import (
    CEILING_IMAGES,
    ceiling_of,
    controls_of,
    drift_gates,
    mean_psnr,
    scale_of,
)
from attack.decoder import DESCRIPTION
from attack.features import EAGER, Target, target_of
from attack.gallery import Gallery, write_pictures
from attack.inversion import DecoderFamily
from attack.metrics import Images, as_unit_images, summarise
from attack.static import StaticAttack
from attack.training import held_out_count
from attack.verdict import Values, advantages, verdict_on, worst
from baseline.datasets import ImageSplits
from baseline.images import ImageSet
from export.bundle import Bundle
from records.attack import (
    ArtifactAttack,
    ArtifactVerdict,
    AttackData,
    AttackRecord,
    Gate,
    Level,
    LevelResult,
    Picture,
    WorstImage,
)
from records.errors import DataError
from records.hashing import sha256_array
from records.manifest import Artifact, SetRecord
from records.progress import Progress, silent
from records.recipe import AttackRecipe
from runtime_check.eager import GRAPH
from runtime_check.machine import installed_version

BASELINE = "edge_fp32_onnx"
_WORST_LISTED = 16
_VERSIONED = ("edgeveil", "torch", "onnxruntime", "numpy", "pillow")


#: One, wherever it runs: the bits of a decoder depend on the threads, and two threads of so small a
#: network waiting for each other on a busy machine were seen to take four times as long as one.
DEFAULT_THREADS = 1


def attack_bundle(
    bundle: Bundle,
    splits: ImageSplits,
    recipe: AttackRecipe,
    cache: Path,
    pictures: Path | None,
    *,
    progress: Progress | None = None,
    threads: int = DEFAULT_THREADS,
) -> AttackRecord:
    """Attack every INT8 artifact of a bundle and the FP32 edge, and judge by the recipe's margin.

    Features and decoders are cached by the hash of all that decides them, so a killed attack goes
    on where it was and gives the same record.

    Args:
        bundle: a verified bundle.
        splits: the attacker's images and the victims; at least 2 and 1 images.
        recipe: levels, margin, seeds, decoders.
        cache: folder of cached features and decoders.
        pictures: folder for the PNG files, None for no pictures.
        progress: called once a batch or epoch.
        threads: of torch and of the runtimes; the bits of the result depend on it.

    Raises:
        DataError: too few images, or images of another size than the bundle's.
        ArtifactError: an artifact does not load or run, or sends a value that is not finite.
        UnsupportedHereError: a runtime is not installed here.
        OverwriteError: a picture of that name is already there.
    """
    started = time.perf_counter()
    _check_sets(bundle, splits)
    session = _Session(bundle, splits, recipe, TensorCache(cache), threads, progress or silent)
    return session.record(pictures, started)


def share_baseline(
    bundle: Bundle,
    splits: ImageSplits,
    recipe: AttackRecipe,
    cache: Path,
    *,
    progress: Progress | None = None,
    threads: int = DEFAULT_THREADS,
) -> None:
    """Put into the cache what attacks on equal FP32 features share: ceiling, FP32 decoders.

    A sweep calls it once before the attacks that would otherwise train them side by side.

    Args:
        bundle: any of the bundles with these FP32 features.
        splits: as in `attack_bundle`.
        recipe: levels, seeds, decoders.
        cache: folder of cached features and decoders.
        progress: called once a batch or epoch.
        threads: of torch and of the runtimes.

    Raises:
        DataError: too few images, or images of another size than the bundle's.
        ArtifactError: the FP32 edge does not load or run.
    """
    _check_sets(bundle, splits)
    session = _Session(bundle, splits, recipe, TensorCache(cache), threads, progress or silent)
    session.share()


class _Session:
    """The parts that every step of one attack shares."""

    def __init__(
        self,
        bundle: Bundle,
        splits: ImageSplits,
        recipe: AttackRecipe,
        cache: TensorCache,
        threads: int,
        progress: Progress,
    ) -> None:
        self.bundle, self.splits, self.recipe = bundle, splits, recipe
        self.cache, self.threads, self.progress = cache, threads, progress
        self.victims: Images = as_unit_images(splits.victim.images)
        self.targets: dict[str, Target] = {}
        self.outcomes: dict[str, tuple[Outcome, ...]] = {}
        self.same_as: dict[str, str] = {}

    def record(self, pictures: Path | None, started: float) -> AttackRecord:
        """Run everything and return the record."""
        manifest, recipe = self.bundle.manifest, self.recipe
        scale = scale_of(self.splits.attacker, self.splits.victim, self.victims)
        ceiling = self._ceiling()
        self._attack_all(self._attacked())
        judged = tuple(a.name for a in self.bundle.edges("int8"))
        controls = controls_of(scale, ceiling, self.outcomes, BASELINE, recipe)
        drift = tuple(drift_gates(self.outcomes, EAGER, judged, recipe))
        verdicts = self._verdicts(judged, controls.gates, drift)
        return AttackRecord(
            bundle_id=manifest.bundle_id,
            split=manifest.split,
            boundary_shape=manifest.boundary.shape,
            wire_bytes_per_image=manifest.wire.packed_bytes,
            recipe=recipe,
            pre_registered=self._pre_registered(),
            verdict=worst(verdicts),
            note=self._note(scale.floor_db),
            margin_db=recipe.margin_db,
            confidence=recipe.confidence,
            resamples=recipe.bootstrap_resamples,
            baseline=BASELINE,
            data=self._data(),
            decoder=DESCRIPTION,
            controls=controls,
            drift=drift,
            artifacts=tuple(self._artifact(name, scale.floor_db) for name in self.targets),
            verdicts=verdicts,
            pictures=() if pictures is None else self._draw(pictures, judged),
            passed=all(gate.passed for gate in (*controls.gates, *drift)),
            threads=self.threads,
            versions={name: installed_version(name) or "none" for name in _VERSIONED},
            seconds=time.perf_counter() - started,
        )

    def share(self) -> None:
        """Attack the pass-through and the FP32 edge alone."""
        self._ceiling()
        self._attack_all([self.bundle.artifact(BASELINE)])

    def _family(self, attacker: ImageSet) -> DecoderFamily:
        return DecoderFamily(
            self.recipe, attacker.images, self.cache, threads=self.threads, progress=self.progress
        )

    def _ceiling(self) -> Outcome:
        first = np.arange(CEILING_IMAGES)
        attacker = self.splits.attacker.take(first[: len(self.splits.attacker)])
        victim = self.splits.victim.take(first[: len(self.splits.victim)])
        return ceiling_of(
            self._family(attacker),
            attacker,
            victim,
            self.victims[: len(victim)],
            self.bundle.manifest.preprocessing,
            self.recipe.seeds[0],
        )

    def _attack_all(self, attacked: Iterable[Artifact]) -> None:
        """Attack artifacts, the FP32 baseline first; equal outputs are attacked once."""
        family = self._family(self.splits.attacker)
        static: StaticAttack | None = None
        first_with: dict[str, str] = {}
        for artifact in attacked:
            target = self._target(artifact)
            self.targets[target.name] = target
            if static is None:
                static = StaticAttack(family, target)
            earlier = first_with.setdefault(target.sha256, target.name)
            if earlier != target.name:
                self.same_as[target.name] = earlier
                self.outcomes[target.name] = self.outcomes[earlier]
                continue
            levels: dict[Level, Attack] = {"A0": static, "A1": AdaptiveAttack(family, static)}
            self.outcomes[target.name] = tuple(
                levels[level].attack(target, self.victims, seed)
                for level in self.recipe.levels
                for seed in self.recipe.seeds
            )

    def _attacked(self) -> Iterator[Artifact]:
        yield self.bundle.artifact(BASELINE)
        yield self.bundle.artifact(GRAPH)
        yield from self.bundle.edges("int8")

    def _target(self, artifact: Artifact) -> Target:
        return target_of(
            self.bundle,
            artifact,
            self.splits.attacker,
            self.splits.victim,
            self.cache,
            threads=self.threads,
            progress=self.progress,
        )

    def _verdicts(
        self, judged: tuple[str, ...], controls: tuple[Gate, ...], drift: tuple[Gate, ...]
    ) -> tuple[ArtifactVerdict, ...]:
        psnr = {name: self._psnr(name) for name in (BASELINE, *judged)}
        gains = advantages(psnr, BASELINE, self.recipe)
        failed = [gate for gate in controls if not gate.passed]
        drifted = [gate for gate in drift if not gate.passed]
        return tuple(
            verdict_on(
                name,
                gains[name],
                self.recipe,
                [*failed, *(gate for gate in drifted if gate.artifact == name)],
            )
            for name in judged
        )

    def _psnr(self, name: str) -> Values:
        """Return float64 (levels, seeds, victims)."""
        return np.stack(
            [
                np.stack([o.scores.psnr for o in self.outcomes[name] if o.level == level])
                for level in self.recipe.levels
            ]
        )

    def _strongest(self, name: str) -> Level:
        outcomes = self.outcomes[name]
        return max(self.recipe.levels, key=lambda level: mean_psnr(outcomes, level))

    def _artifact(self, name: str, floor_db: float) -> ArtifactAttack:
        target, outcomes = self.targets[name], self.outcomes[name]
        strongest = self._strongest(name)
        per_image = np.mean([o.scores.psnr for o in outcomes if o.level == strongest], axis=0)
        return ArtifactAttack(
            name=name,
            precision=target.precision,
            runtime=target.runtime,
            runtime_mode=target.mode,
            boundary=target.boundary,
            features_sha256=target.sha256,
            same_outputs_as=self.same_as.get(name),
            levels=tuple(_level_result(o, floor_db) for o in outcomes),
            strongest=strongest,
            max_leak_db=float(per_image.mean()) - floor_db,
            max_recon_psnr_db=float(per_image.mean()),
            per_image_db=tuple(round(float(db), 2) for db in per_image),
            worst=tuple(
                WorstImage(victim=int(k), recon_psnr_db=float(per_image[k]))
                for k in np.argsort(-per_image, kind="stable")[:_WORST_LISTED]
            ),
        )

    def _note(self, floor_db: float) -> str | None:
        leak = mean_psnr(self.outcomes[BASELINE], self._strongest(BASELINE)) - floor_db
        if leak >= self.recipe.margin_db:
            return None
        return (
            f"FP32 features leak only {leak:.2f} dB over the floor, less than the margin of "
            f"{self.recipe.margin_db:g} dB: there is nothing here that INT8 could be credited with "
            "hiding"
        )

    def _pre_registered(self) -> bool:
        """Say whether recipe and images are those that were sealed in the bundle."""
        manifest, data = self.bundle.manifest, self._data()
        return (
            self.recipe == manifest.recipe.attack
            and data.attacker == manifest.data.attacker
            and data.victim == manifest.data.victim
        )

    def _data(self) -> AttackData:
        source, attacker = self.splits.record, self.splits.attacker
        return AttackData(
            source=source.source,
            native_size=source.native_size,
            attacker_pool=source.attacker_pool,
            attacker=_set_record(attacker),
            victim=_set_record(self.splits.victim),
            validation_images=held_out_count(len(attacker), self.recipe.validation_share),
        )

    def _draw(self, folder: Path, judged: tuple[str, ...]) -> tuple[Picture, ...]:
        """Draw the INT8 artifact that leaks most beside FP32."""
        level = {name: self._strongest(name) for name in (BASELINE, *judged)}
        shown = max(judged, key=lambda name: mean_psnr(self.outcomes[name], level[name]))
        gallery = Gallery(
            victims=self.splits.victim.images,
            fp32=self._first(BASELINE, level[BASELINE]),
            int8=tuple(self._first(shown, one) for one in self.recipe.levels),
            strongest=self._first(shown, level[shown]),
            artifact=shown,
        )
        return write_pictures(folder, gallery, self.recipe.seeds[0])

    def _first(self, name: str, level: Level) -> Outcome:
        """Return an artifact's outcome at a level with the first seed."""
        return next(o for o in self.outcomes[name] if o.level == level)


def _level_result(outcome: Outcome, floor_db: float) -> LevelResult:
    return LevelResult(
        level=outcome.level,
        seed=outcome.seed,
        chosen=outcome.chosen,
        candidates=outcome.candidates,
        result=summarise(outcome.scores, floor_db),
    )


def _set_record(images: ImageSet) -> SetRecord:
    return SetRecord(count=len(images), sha256=sha256_array(images.images, images.labels))


def _check_sets(bundle: Bundle, splits: ImageSplits) -> None:
    side = bundle.manifest.preprocessing.native_size
    if len(splits.attacker) < 2 or len(splits.victim) < 1:
        raise DataError(
            f"an attack needs at least 2 attacker images and 1 victim, not {len(splits.attacker)} "
            f"and {len(splits.victim)}"
        )
    if splits.victim.images.shape[1] != side or splits.attacker.images.shape[1] != side:
        raise DataError(
            f"the bundle takes {side} px images, not {splits.victim.images.shape[1]} px; use data "
            "of its native size"
        )
