"""One attack on one bundle: every INT8 artifact's own outputs, controls, verdict, pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from attack.base import Outcome
from attack.cache import TensorCache
from attack.campaign import BASELINE, Campaign, judged_artifacts
from attack.controls import controls_of, scale_of
from attack.decoder import DESCRIPTION
from attack.features import EAGER
from attack.gallery import Gallery, write_pictures
from attack.gates import control_gates, drift_gates
from attack.level_means import (
    Attacker,
    Values,
    attackers_of,
    by,
    fewest_victims,
    mean_db,
    strongest,
    values_of,
)
from attack.metrics import as_unit_images, summarise
from attack.out_of_distribution import foreign_images
from attack.query_budget import budgets_below
from attack.recovery import RecoveryMeter, WholeNetwork
from attack.training import held_out_count
from attack.verdict import advantages, verdict_on, worst
from baseline.datasets import ImageSplits
from baseline.images import ImageSet
from export.bundle import Bundle
from records.attack import (
    ArtifactAttack,
    ArtifactVerdict,
    AttackData,
    AttackRecord,
    Gate,
    LevelResult,
    Picture,
    Recovery,
    WorstImage,
)
from records.errors import DataError, UnsupportedHereError
from records.hashing import sha256_array
from records.manifest import SetRecord
from records.progress import Progress, silent
from records.recipe import AttackRecipe
from records.target import SkippedArtifact
from runtime_check.machine import installed_version
from runtime_check.targets.target import Target as Device

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
    target: Device | None = None,
) -> AttackRecord:
    """Attack the INT8 artifacts of a bundle and the FP32 edge, and judge by the recipe's margin.

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
        target: where the victims' images go through the artifacts. The decoders are trained on
            the host's outputs of the same artifacts, on the target's where the host does not run
            one rightly. None: all of it in this process.

    Raises:
        InputError: the recipe names an artifact that the bundle does not have.
        DataError: too few images, images of another size than the bundle's, or A4's images are
            those of the victims' own source.
        ArtifactError: an artifact does not load or run, or sends a value that is not finite.
        UnsupportedHereError: the runtime of an artifact that the recipe names is not installed
            here, or no artifact runs here or on the target.
        OverwriteError: a picture of that name is already there.
    """
    started = time.perf_counter()
    _check_sets(bundle, splits)
    campaign = _campaign(bundle, splits, recipe, cache, threads, progress)
    campaign.device = target
    _require_judged(campaign)
    return _Session(campaign).record(pictures, started)


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
    _campaign(bundle, splits, recipe, cache, threads, progress).share()


def _campaign(
    bundle: Bundle,
    splits: ImageSplits,
    recipe: AttackRecipe,
    cache: Path,
    threads: int,
    progress: Progress | None,
) -> Campaign:
    victims = as_unit_images(splits.victim.images)
    return Campaign(
        bundle=bundle,
        splits=splits,
        recipe=recipe,
        cache=TensorCache(cache),
        threads=threads,
        progress=progress or silent,
        victims=victims,
        foreign=_foreign(splits, recipe),
        meter=RecoveryMeter(WholeNetwork(bundle, threads=threads), splits.victim, victims),
    )


def _skipped(campaign: Campaign) -> Iterator[SkippedArtifact]:
    named = judged_artifacts(campaign.bundle, campaign.recipe)
    for artifact in campaign.bundle.edges("int8"):
        reason = campaign.why_not(artifact)
        if reason is None and campaign.device is not None and artifact not in named:
            reason = "not named in attack.artifacts or --artifacts"
        if reason is not None:
            yield SkippedArtifact(artifact=artifact.name, reason=reason)


def _require_judged(campaign: Campaign) -> None:
    """Refuse an attack without artifacts, and one on a named artifact that cannot run here."""
    if campaign.recipe.artifacts:
        named = judged_artifacts(campaign.bundle, campaign.recipe)
        reasons = {artifact.name: campaign.why_not(artifact) for artifact in named}
        missing = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
        if missing:
            raise UnsupportedHereError("attack.artifacts names " + "; ".join(missing))
    if not campaign.judged():
        where = "here" if campaign.device is None else "on the target"
        raise UnsupportedHereError(
            f"no INT8 artifact of the attack runs {where}: "
            + "; ".join(dict.fromkeys(skip.reason for skip in _skipped(campaign)))
        )


class _Session:
    """From a campaign's outcomes to the record."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.bundle, self.splits = campaign.bundle, campaign.splits
        self.recipe, self.outcomes = campaign.recipe, campaign.outcomes

    def record(self, pictures: Path | None, started: float) -> AttackRecord:
        """Run everything and return the record."""
        manifest, recipe, campaign = self.bundle.manifest, self.recipe, self.campaign
        scale = scale_of(self.splits.attacker, self.splits.victim, campaign.victims)
        campaign.run()
        references = campaign.references()
        judged = tuple(a.name for a in campaign.judged())
        gates = tuple(control_gates(scale, references, self.outcomes, BASELINE, recipe))
        controls = controls_of(scale, references, campaign.meter.original_top1, gates)
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
            artifacts=tuple(self._artifact(name, scale.floor_db) for name in campaign.targets),
            verdicts=verdicts,
            pictures=() if pictures is None else self._draw(pictures, judged),
            passed=all(gate.passed for gate in (*controls.gates, *drift)),
            target=None if campaign.device is None else campaign.device.record,
            skipped=tuple(_skipped(campaign)),
            threads=campaign.threads,
            versions={name: installed_version(name) or "none" for name in _VERSIONED},
            seconds=time.perf_counter() - started,
        )

    def _verdicts(
        self, judged: tuple[str, ...], controls: tuple[Gate, ...], drift: tuple[Gate, ...]
    ) -> tuple[ArtifactVerdict, ...]:
        psnr = {name: self._psnr(name) for name in (BASELINE, *judged)}
        first = fewest_victims(self.outcomes[BASELINE])
        gains = advantages(psnr, BASELINE, self.recipe, first)
        failed = [gate for gate in controls if not gate.passed]
        drifted = [gate for gate in drift if not gate.passed]
        return tuple(
            verdict_on(
                name,
                gains[name],
                self.recipe,
                [*failed, *(gate for gate in drifted if gate.artifact == name)],
                [_measured(outcome) for outcome in self.outcomes[name]],
            )
            for name in judged
        )

    def _psnr(self, name: str) -> Values:
        """Return float64 (attackers, seeds, victims)."""
        outcomes = self.outcomes[name]
        return np.stack([values_of(outcomes, attacker) for attacker in attackers_of(outcomes)])

    def _artifact(self, name: str, floor_db: float) -> ArtifactAttack:
        target, outcomes = self.campaign.targets[name], self.outcomes[name]
        attacker = strongest(outcomes)
        per_image = np.mean([o.scores.psnr for o in by(outcomes, attacker)], axis=0)
        reached = mean_db(outcomes, attacker)
        return ArtifactAttack(
            name=name,
            precision=target.precision,
            runtime=target.runtime,
            runtime_mode=target.mode,
            boundary=target.boundary,
            trained_on=target.trained_on,
            features_sha256=target.sha256,
            same_outputs_as=self.campaign.same_as.get(name),
            levels=tuple(_level_result(o, floor_db) for o in outcomes),
            strongest=attacker.level,
            max_leak_db=reached - floor_db,
            max_recon_psnr_db=reached,
            per_image_db=tuple(round(float(db), 2) for db in per_image),
            worst=tuple(
                WorstImage(victim=int(k), recon_psnr_db=float(per_image[k]))
                for k in np.argsort(-per_image, kind="stable")[:_WORST_LISTED]
            ),
        )

    def _note(self, floor_db: float) -> str | None:
        leak = self._most(BASELINE) - floor_db
        if leak >= self.recipe.margin_db:
            return None
        return (
            f"FP32 features leak only {leak:.2f} dB over the floor (the mean image), less than the "
            f"margin of {self.recipe.margin_db:g} dB: there is nothing here that INT8 could be "
            "credited with hiding, and the verdict says little"
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
        foreign = self.campaign.foreign
        budgets = self.recipe.query_budgets if "A3" in self.recipe.levels else ()
        used = budgets_below(self.recipe, len(attacker))
        return AttackData(
            source=source.source,
            native_size=source.native_size,
            attacker_pool=source.attacker_pool,
            attacker=_set_record(attacker),
            victim=_set_record(self.splits.victim),
            validation_images=held_out_count(len(attacker), self.recipe.validation_share),
            ood_source=None if foreign is None else self.recipe.ood_source,
            ood=None if foreign is None else _set_record(foreign),
            left_out_budgets=tuple(b for b in budgets if b not in used),
        )

    def _draw(self, folder: Path, judged: tuple[str, ...]) -> tuple[Picture, ...]:
        """Draw the INT8 artifact that leaks most beside FP32."""
        shown = max(judged, key=self._most)
        outcomes = self.outcomes[shown]
        # Of several query budgets the last, which is the largest, stands for A3.
        shown_attackers = {a.level: a for a in attackers_of(outcomes)}.values()
        gallery = Gallery(
            victims=self.splits.victim.images,
            fp32=self._first(BASELINE, strongest(self.outcomes[BASELINE])),
            int8=tuple(self._first(shown, attacker) for attacker in shown_attackers),
            strongest=self._first(shown, strongest(outcomes)),
            artifact=shown,
        )
        return write_pictures(folder, gallery, self.recipe.seeds[0])

    def _most(self, name: str) -> float:
        """Return the mean dB of an artifact's strongest attacker."""
        return mean_db(self.outcomes[name], strongest(self.outcomes[name]))

    def _first(self, name: str, attacker: Attacker) -> Outcome:
        """Return an attacker's outcome on an artifact with the first seed."""
        return by(self.outcomes[name], attacker)[0]


def _level_result(outcome: Outcome, floor_db: float) -> LevelResult:
    return LevelResult(
        level=outcome.level,
        seed=outcome.seed,
        queries=outcome.queries,
        victims=len(outcome.scores.psnr),
        chosen=outcome.chosen,
        candidates=outcome.candidates,
        result=summarise(outcome.scores, floor_db),
        recovery=_measured(outcome),
    )


def _measured(outcome: Outcome) -> Recovery:
    if outcome.recovery is None:
        raise DataError(f"{outcome.level} was attacked without measuring what it recovers")
    return outcome.recovery


def _foreign(splits: ImageSplits, recipe: AttackRecipe) -> ImageSet | None:
    """Return A4's auxiliary images, None where A4 is not run."""
    if "A4" not in recipe.levels:
        return None
    record = splits.record
    return foreign_images(
        recipe.ood_source, record.source, record.native_size, len(splits.attacker)
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
