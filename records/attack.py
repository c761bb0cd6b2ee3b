"""The record of one attack on one bundle: what every artifact leaks, the controls, the verdict.

All PSNR values are dB at the data set's native resolution with data range 1.0, and are capped at
``PSNR_CAP_DB``: two identical images have no finite PSNR.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.manifest import SetRecord, Sha256
from records.recipe import AttackRecipe
from records.target import SkippedArtifact, TargetRecord

SCHEMA = "edgeveil.attack/2"
RECORD_NAME = "attack.json"

#: The PSNR given to an exact reconstruction, in dB (an MSE of 1e-10 of the squared data range).
PSNR_CAP_DB = 100.0

Level = Literal["A0", "A1", "A2", "A3", "A4"]
Verdict = Literal["HOLDS", "DENIED", "INCONCLUSIVE"]
#: Which side ran an artifact.
Place = Literal["host", "target"]
Start = Literal[
    "constant",
    "closed-form",
    "scratch",
    "fine-tuned",
    "unchanged",
    "a1-output",
    "mean-image",
]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class Spread(Part, frozen=True, kw_only=True):
    """Mean and percentiles of one figure over the victim images (same unit as the figure)."""

    mean: float
    p5: float
    p50: float
    p95: float


class Histogram(Part, frozen=True, kw_only=True):
    """Victims per bin: bin i covers [first_db + i·bin_db, first_db + (i+1)·bin_db)."""

    first_db: float
    bin_db: Annotated[float, Meta(gt=0.0)]
    counts: tuple[int, ...]


class Reconstruction(Part, frozen=True, kw_only=True):
    """How well one attacker rebuilt the victims.

    ``recon_psnr_pooled_db`` comes from the MSE pooled over images; ``recon_psnr_db`` is per image.
    ``leak_db`` = ``recon_psnr_db.mean`` − the floor's: what the features gave away beyond knowing
    the attacker's mean image.
    """

    recon_psnr_db: Spread
    recon_psnr_pooled_db: float
    recon_ssim: Spread
    leak_db: float
    histogram: Histogram


class Candidate(Part, frozen=True, kw_only=True):
    """One thing that was tried for a level; the one with the lowest validation loss is used.

    For A0, A1, A3 and A4 it is a decoder.
    ``start``: ``constant`` (the mean image) and ``closed-form`` (ridge regression) are not trained
    by gradients; ``scratch`` and ``fine-tuned`` are; ``unchanged`` is the A0 decoder as it is.
    For A2 it is a setting of the descent on the image: from ``a1-output`` or ``mean-image``, or
    A1's output ``unchanged``; capacity ``image``, ``parameters`` pixel values, ``epochs``
    iterations; ``noise`` the variance that features are trusted to, as a share of their own,
    ``tv`` the weight of the total variation; tried on held-out attacker images. The last two, A1's
    output and the best setting with all its iterations, are tried on others of them, and one of
    these two is used; the loss is the geometric mean of the images' MSE.
    ``val_loss``: MSE on the held-out attacker images after each epoch; the weights of
    ``best_epoch`` (0-based) are kept.
    """

    start: Start
    capacity: str
    parameters: Annotated[int, Meta(ge=0)]
    epochs: Annotated[int, Meta(ge=0)]
    best_epoch: Annotated[int, Meta(ge=0)]
    best_val_loss: float
    val_loss: tuple[float, ...]
    stopped: Literal["patience", "max-epochs", "not-trained"]
    noise: float | None = None
    tv: float | None = None
    seconds: float


class Recovery(Part, frozen=True, kw_only=True):
    """What is recovered beside the pixels, as shares 0–1 of the first ``probes`` reconstructions.

    ``reidentified``: the nearest by MSE of the first ``gallery`` originals is the right one
    (guessing finds 1 / ``gallery``). ``label_top1``: the whole FP32 network, shown the
    reconstruction, gives the victim's true class; ``label_agreement``: the class that it gives the
    original.
    """

    probes: Annotated[int, Meta(ge=1)]
    gallery: Annotated[int, Meta(ge=1)]
    reidentified: float
    label_top1: float
    label_agreement: float


class LevelResult(Part, frozen=True, kw_only=True):
    """One attacker level with one attacker seed; ``chosen`` indexes ``candidates``.

    ``queries``: the training pairs of A3, None for the other levels. ``victims``: how many, the
    first ones, were attacked: A2's cost is per image.
    """

    level: Level
    seed: int
    queries: int | None
    victims: Annotated[int, Meta(ge=1)]
    chosen: Annotated[int, Meta(ge=0)]
    candidates: tuple[Candidate, ...]
    result: Reconstruction
    recovery: Recovery


class WorstImage(Part, frozen=True, kw_only=True):
    """A victim that leaks most: index into the victim set, dB of the strongest attacker."""

    victim: Annotated[int, Meta(ge=0)]
    recon_psnr_db: float


class ArtifactAttack(Part, frozen=True, kw_only=True):
    """Everything done to one artifact's outputs.

    ``name``: the artifact's name, or ``eager_int8`` for the eager reference. ``features_sha256``
    is over the outputs for attacker and victim images; ``same_outputs_as`` names the earlier
    artifact with identical outputs, whose decoders therefore serve both. ``trained_on``: whose
    outputs for the attacker's images its decoders learned from. ``strongest``: the level
    with the highest mean PSNR over seeds; ``max_leak_db`` is its ``leak_db``. For A2, which attacks
    the first victims only, the mean over all victims is estimated: A1's over all victims plus A2's
    mean gain over A1 on the same images (a difference estimator; Cochran 1977, ch. 7).
    ``per_image_db``: the strongest level's PSNR of each attacked victim in victim order, averaged
    over seeds, rounded to 0.01 dB.
    """

    name: str
    precision: Literal["fp32", "int8"]
    runtime: str
    runtime_mode: str
    boundary: Literal["float", "wire"]
    trained_on: Place = "host"
    features_sha256: Sha256
    same_outputs_as: str | None
    levels: tuple[LevelResult, ...]
    strongest: Level
    max_leak_db: float
    max_recon_psnr_db: float
    per_image_db: tuple[float, ...]
    worst: tuple[WorstImage, ...]


class Gate(Part, frozen=True, kw_only=True):
    """A control with its limit: passed when ``measured`` ``relation`` ``limit`` is true."""

    name: str
    artifact: str | None = None
    measured: float
    relation: Literal[">", "≥", "≤"]
    limit: float
    unit: str = "dB"
    passed: bool
    meaning: str


class Controls(Part, frozen=True, kw_only=True):
    """What the figures must be read against, and the gates without which there is no verdict.

    ``floor``: every victim "reconstructed" as the attacker set's mean image. ``mean_colour``: each
    victim's own mean colour (for scale, not an attack). ``ceiling``: the same attack code
    on a pass-through edge. ``logits``: by artifact, the server's answers to its outputs attacked
    in the place of the boundary: whatever they leak, no defence of the boundary can hide.
    ``bits16``: a decoder trained on FP32 features quantized to 16 bits. Both are of the smallest
    capacity and the first seed, and empty where the recipe leaves them out.
    ``original_top1``: share of the original victims whose true class the whole FP32 network finds.
    """

    floor: Reconstruction
    mean_colour: Reconstruction
    ceiling: Reconstruction
    ceiling_candidates: tuple[Candidate, ...]
    logits: dict[str, Reconstruction]
    bits16: Reconstruction | None
    original_top1: float
    gates: tuple[Gate, ...]


class ArtifactVerdict(Part, frozen=True, kw_only=True):
    """The verdict on one INT8 artifact.

    ``advantage_db`` = max-leak(FP32) − max-leak(artifact); ``lower_db`` and ``upper_db`` are its
    one-sided bounds at ``confidence``. HOLDS: lower > margin. DENIED: upper < margin.
    """

    artifact: str
    verdict: Verdict
    advantage_db: float
    lower_db: float
    upper_db: float
    reason: str


class Picture(Part, frozen=True, kw_only=True):
    """A PNG beside the record."""

    file: str
    title: str
    sha256: Sha256
    victims: tuple[int, ...]


class AttackData(Part, frozen=True, kw_only=True):
    """The image sets as attacked: after the limits of the command line, if any.

    ``ood``: A4's auxiliary images and their source, None where A4 was not run.
    ``left_out_budgets``: query budgets that are not below the attacker's set; A1 stands for them.
    """

    source: str
    native_size: int
    attacker_pool: Literal["held-out", "train"]
    attacker: SetRecord
    victim: SetRecord
    validation_images: int
    ood_source: str | None
    ood: SetRecord | None
    left_out_budgets: tuple[int, ...]


class AttackRecord(Part, frozen=True, kw_only=True):
    """One attack on one bundle.

    ``verdict``: the worst of ``verdicts`` (DENIED before INCONCLUSIVE before HOLDS), and
    INCONCLUSIVE whenever a gate failed. ``pre_registered`` is false when the recipe used is not
    the one sealed in the bundle. ``note`` is set when the FP32 edge itself leaks less than the
    margin over the floor: there is nothing that INT8 could be credited with hiding.
    ``drift``: each artifact against eager INT8, |Δ recon_psnr_db| by level. ``target``: what the
    victims' images went through, None for this process; eager INT8 always runs on the host.
    ``trained_on``: whose outputs for the attacker's images the decoders learned from, but for the
    artifacts that name the target. ``skipped``: INT8 artifacts whose runtime is not installed
    here, or that do not run on the target.
    """

    schema: Literal["edgeveil.attack/2"] = "edgeveil.attack/2"
    bundle_id: Sha256
    split: str
    boundary_shape: tuple[int, ...]
    wire_bytes_per_image: int
    recipe: AttackRecipe
    pre_registered: bool
    verdict: Verdict
    note: str | None
    margin_db: float
    confidence: float
    resamples: int
    baseline: str
    data: AttackData
    decoder: str
    controls: Controls
    drift: tuple[Gate, ...]
    artifacts: tuple[ArtifactAttack, ...]
    verdicts: tuple[ArtifactVerdict, ...]
    pictures: tuple[Picture, ...]
    passed: bool
    target: TargetRecord | None = None
    trained_on: Literal["host"] = "host"
    skipped: tuple[SkippedArtifact, ...] = ()
    threads: int
    versions: dict[str, str]
    seconds: float


def training_sentence(record: AttackRecord) -> str:
    """Return whose outputs the decoders of an attack on a target learned from."""
    there = [one.name for one in record.artifacts if one.trained_on == "target"]
    sentence = "Training features are the host's outputs of the same artifact (A0: of FP32)"
    if there:
        sentence += f"; of {', '.join(there)} the target's: the host has none that are right"
    return f"{sentence}."


def failed_gates(record: AttackRecord) -> tuple[Gate, ...]:
    """Return the gates that failed, controls first."""
    return tuple(g for g in (*record.controls.gates, *record.drift) if not g.passed)
