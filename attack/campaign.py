"""Every level of every seed against one artifact after the other; equal outputs once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from attack.adaptive import AdaptiveAttack
from attack.base import Attack, Outcome
from attack.cache import TensorCache
from attack.controls import CEILING_IMAGES, References, ceiling_of
from attack.differentiable import DifferentiableEdge
from attack.features import EAGER, Target, target_of
from attack.inversion import DecoderFamily
from attack.metrics import Images
from attack.out_of_distribution import OutOfDistributionAttack
from attack.query_budget import (
    QueryBudgetAttack,
    budget_recipe,
    budgets_below,
    smallest_capacity,
)
from attack.recovery import RecoveryMeter
from attack.reference_attacks import attacked, in_16_bits, logits_of
from attack.static import StaticAttack
from attack.whitebox import WhiteBox, WhiteBoxAttack
from baseline.datasets import ImageSplits
from baseline.images import ImageSet
from export.bundle import Bundle
from records.attack import Level
from records.errors import InputError
from records.manifest import Artifact
from records.progress import Progress
from records.recipe import AttackRecipe
from runtime_check.availability import why_not_here
from runtime_check.eager import GRAPH
from runtime_check.runtime import runtime_for
from runtime_check.targets.target import Target as Device

BASELINE = "edge_fp32_onnx"
#: Whose weights and scales A2 knows; every INT8 artifact of a bundle has the same.
_KNOWN = {"fp32": BASELINE, "int8": "edge_int8_onnx"}
_SERVER = "server_fp32_onnx"


@dataclass
class Campaign:
    """What is attacked with, and, after ``run``, what came of it.

    Attributes:
        bundle: a verified bundle.
        splits: the attacker's images and the victims.
        recipe: levels, seeds, decoders.
        cache: of features, decoders and white-box results.
        threads: of torch and the runtimes.
        progress: called once a batch or epoch.
        victims: float32 (N, 3, H, W) in [0, 1].
        foreign: A4's auxiliary images, None without A4.
        meter: measures re-identification and labels.
        device: where the victims' images go through the artifacts; None for this process.
        targets: by artifact, its outputs.
        outcomes: by artifact, one outcome an attacker and seed.
        same_as: artifact → an earlier one with the same outputs.
    """

    bundle: Bundle
    splits: ImageSplits
    recipe: AttackRecipe
    cache: TensorCache
    threads: int
    progress: Progress
    victims: Images
    foreign: ImageSet | None
    meter: RecoveryMeter
    device: Device | None = None
    targets: dict[str, Target] = field(default_factory=dict)
    outcomes: dict[str, tuple[Outcome, ...]] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Attack FP32, eager INT8 and the INT8 artifacts."""
        self._attack(self._attacked())

    def share(self) -> None:
        """Attack FP32 and its controls alone: what bundles with equal FP32 edges share."""
        self._attack([self.bundle.artifact(BASELINE)])
        self._references((BASELINE,))

    def _attack(self, artifacts: Iterable[Artifact]) -> None:
        """Attack artifacts, the FP32 baseline first."""
        family = self._family(self.splits.attacker, self.recipe)
        static: StaticAttack | None = None
        first_with: dict[str, str] = {}
        for artifact in artifacts:
            target = self._target(artifact, self.splits.attacker)
            self.targets[target.name] = target
            if static is None:
                static = StaticAttack(family, target)
                attacks = tuple(self._attacks(family, static))
            earlier = first_with.setdefault(target.sha256, target.name)
            if earlier != target.name:
                self.same_as[target.name] = earlier
                self.outcomes[target.name] = self.outcomes[earlier]
                continue
            self.outcomes[target.name] = tuple(
                self._outcome(attack, artifact, target, seed)
                for attack in attacks
                for seed in self.recipe.seeds
            )

    def references(self) -> References:
        """Return the attacks on a pass-through edge, on logits and on 16-bit features.

        The answers to eager INT8 stand for those to the other artifacts, which agree with it.
        """
        return self._references((BASELINE, EAGER))

    def _references(self, answered: Iterable[str]) -> References:
        recipe, seed = self.recipe, self.recipe.seeds[0]
        small = msgspec.structs.replace(recipe, capacities=(smallest_capacity(recipe),))
        family = self._family(self.splits.attacker, small)
        baseline = self.targets[BASELINE]
        bits16, plain = None, None
        if "bits16" in recipe.controls:
            bits16 = attacked(family, in_16_bits(baseline), self.victims, seed)
            plain = attacked(family, baseline, self.victims, seed)
        return References(
            ceiling=self._ceiling(),
            logits=self._logits(family, seed, answered) if "logits" in recipe.controls else {},
            bits16=bits16,
            bits32=plain,
        )

    def _logits(
        self, family: DecoderFamily, seed: int, answered: Iterable[str]
    ) -> dict[str, Outcome]:
        """Attack the server's answers to what these artifacts send."""
        server = self.bundle.artifact(_SERVER)
        loaded = runtime_for(server).load(self.bundle, server, threads=self.threads)
        return {
            name: attacked(family, logits_of(self.targets[name], loaded.run), self.victims, seed)
            for name in answered
        }

    def _attacks(self, family: DecoderFamily, static: StaticAttack) -> Iterator[Attack]:
        adaptive = AdaptiveAttack(family, static)
        for level in self.recipe.levels:
            yield from self._of_level(level, static, adaptive)

    def _of_level(
        self, level: Level, static: StaticAttack, adaptive: AdaptiveAttack
    ) -> Iterator[Attack]:
        if level == "A0":
            yield static
        elif level == "A1":
            yield adaptive
        elif level == "A2":
            yield WhiteBoxAttack(
                adaptive,
                self._known,
                self.splits.attacker.images,
                self.recipe,
                self.cache,
                threads=self.threads,
                progress=self.progress,
            )
        elif level == "A3":
            yield from self._budgeted()
        elif self.foreign is not None:
            yield OutOfDistributionAttack(self._family(self.foreign, self.recipe))

    def _budgeted(self) -> Iterator[Attack]:
        total = len(self.splits.attacker)
        for queries in budgets_below(self.recipe, total):
            few = self.splits.attacker.take(np.arange(queries))
            settings = budget_recipe(self.recipe, queries, total)
            yield QueryBudgetAttack(self._family(few, settings), queries)

    def _outcome(self, attack: Attack, artifact: Artifact, target: Target, seed: int) -> Outcome:
        victims = self.victims
        if attack.level == "A2":
            victims = victims[: self.recipe.white_box_images]
            target = target.on_first(len(victims))
        elif attack.level == "A4" and self.foreign is not None:
            target = self._target(artifact, self.foreign)
        return attack.attack(target, victims, seed, self.meter)

    def _known(self, target: Target) -> WhiteBox:
        artifact = self.bundle.artifact(_KNOWN[target.precision])
        edge = DifferentiableEdge(self.bundle.read(artifact), artifact.name)
        return WhiteBox(edge, self.bundle.manifest.preprocessing)

    def _family(self, images: ImageSet, recipe: AttackRecipe) -> DecoderFamily:
        return DecoderFamily(
            recipe, images.images, self.cache, threads=self.threads, progress=self.progress
        )

    def _ceiling(self) -> Outcome:
        first = np.arange(CEILING_IMAGES)
        attacker = self.splits.attacker.take(first[: len(self.splits.attacker)])
        victim = self.splits.victim.take(first[: len(self.splits.victim)])
        return ceiling_of(
            self._family(attacker, self.recipe),
            attacker,
            victim,
            self.victims[: len(victim)],
            self.bundle.manifest.preprocessing,
            self.recipe.seeds[0],
        )

    def judged(self) -> tuple[Artifact, ...]:
        """Return the INT8 edges that are attacked: of those named, what runs here and there."""
        named = judged_artifacts(self.bundle, self.recipe)
        return tuple(artifact for artifact in named if self.why_not(artifact) is None)

    def why_not(self, artifact: Artifact) -> str | None:
        """Return why an artifact's outputs for the victims cannot be had, None where they can."""
        return why_not_here(artifact) if self.device is None else self.device.missing(artifact)

    def _attacked(self) -> Iterator[Artifact]:
        yield self.bundle.artifact(BASELINE)
        yield self.bundle.artifact(GRAPH)
        yield from self.judged()

    def _target(self, artifact: Artifact, attacker: ImageSet) -> Target:
        return target_of(
            self.bundle,
            artifact,
            attacker,
            self.splits.victim,
            self.cache,
            threads=self.threads,
            progress=self.progress,
            device=self.device,
        )


def judged_artifacts(bundle: Bundle, recipe: AttackRecipe) -> tuple[Artifact, ...]:
    """Return the INT8 edges that the recipe names, or every one, in the bundle's order.

    Raises:
        InputError: the bundle has no INT8 edge of a name.
    """
    edges = bundle.edges("int8")
    unknown = [name for name in recipe.artifacts if name not in {a.name for a in edges}]
    if unknown:
        raise InputError(
            f"attack.artifacts names {', '.join(unknown)}; the bundle's INT8 edges are "
            f"{', '.join(a.name for a in edges)}"
        )
    return tuple(a for a in edges if not recipe.artifacts or a.name in recipe.artifacts)
