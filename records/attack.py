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

SCHEMA = "edgeveil.attack/1"
RECORD_NAME = "attack.json"

#: The PSNR given to an exact reconstruction, in dB (an MSE of 1e-10 of the squared data range).
PSNR_CAP_DB = 100.0

Level = Literal["A0", "A1"]
Verdict = Literal["HOLDS", "DENIED", "INCONCLUSIVE"]
Start = Literal["constant", "closed-form", "scratch", "fine-tuned", "unchanged"]


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
    """One decoder that was tried for a level; the one with the lowest validation loss is used.

    ``start``: ``constant`` (the mean image) and ``closed-form`` (ridge regression) are not trained
    by gradients; ``scratch`` and ``fine-tuned`` are; ``unchanged`` is the A0 decoder as it is.
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
    seconds: float


class LevelResult(Part, frozen=True, kw_only=True):
    """One attacker level with one attacker seed; ``chosen`` indexes ``candidates``."""

    level: Level
    seed: int
    chosen: Annotated[int, Meta(ge=0)]
    candidates: tuple[Candidate, ...]
    result: Reconstruction


class WorstImage(Part, frozen=True, kw_only=True):
    """A victim that leaks most: index into the victim set, dB of the strongest attacker."""

    victim: Annotated[int, Meta(ge=0)]
    recon_psnr_db: float


class ArtifactAttack(Part, frozen=True, kw_only=True):
    """Everything done to one artifact's outputs.

    ``name``: the artifact's name, or ``eager_int8`` for the eager reference. ``features_sha256``
    is over the outputs for attacker and victim images; ``same_outputs_as`` names the earlier
    artifact with identical outputs, whose decoders therefore serve both. ``strongest``: the level
    with the higher mean PSNR over seeds; ``max_leak_db`` is its ``leak_db``.
    ``per_image_db``: the strongest level's PSNR of each victim in victim order, averaged over
    seeds, rounded to 0.01 dB.
    """

    name: str
    precision: Literal["fp32", "int8"]
    runtime: str
    runtime_mode: str
    boundary: Literal["float", "wire"]
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
    on a pass-through edge.
    """

    floor: Reconstruction
    mean_colour: Reconstruction
    ceiling: Reconstruction
    ceiling_candidates: tuple[Candidate, ...]
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
    """The image sets as attacked: after the limits of the command line, if any."""

    source: str
    native_size: int
    attacker_pool: Literal["held-out", "train"]
    attacker: SetRecord
    victim: SetRecord
    validation_images: int


class AttackRecord(Part, frozen=True, kw_only=True):
    """One attack on one bundle.

    ``verdict``: the worst of ``verdicts`` (DENIED before INCONCLUSIVE before HOLDS), and
    INCONCLUSIVE whenever a gate failed. ``pre_registered`` is false when the recipe used is not
    the one sealed in the bundle. ``note`` is set when the FP32 edge itself leaks less than the
    margin over the floor: there is nothing that INT8 could be credited with hiding.
    ``drift``: each artifact against eager INT8, |Δ recon_psnr_db| by level.
    """

    schema: Literal["edgeveil.attack/1"] = "edgeveil.attack/1"
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
    threads: int
    versions: dict[str, str]
    seconds: float


def failed_gates(record: AttackRecord) -> tuple[Gate, ...]:
    """Return the gates that failed, controls first."""
    return tuple(g for g in (*record.controls.gates, *record.drift) if not g.passed)
