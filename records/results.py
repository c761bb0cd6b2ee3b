"""The few figures of a run that a page quotes, with what is needed to say where they come from."""

from __future__ import annotations

from typing import Literal

import msgspec

from records.attack import Level, Verdict
from records.manifest import Sha256

SCHEMA = "edgeveil.results/1"


class ResultsPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the results' parts: frozen, keyword-only, unknown keys refused."""


class AttackFigures(ResultsPart, frozen=True, kw_only=True):
    """Mean ``recon_psnr_db`` over victims and seeds of one artifact, by attacker level."""

    recon_psnr_db: dict[Level, float]
    max_leak_db: float
    verdict: Verdict | None
    advantage_db: float | None
    lower_db: float | None
    upper_db: float | None


class SpeedFigures(ResultsPart, frozen=True, kw_only=True):
    """Median latency with one thread, and FP32 / INT8 of the same runtime with its interval."""

    p50_ms: float
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str | None


class ArtifactFigures(ResultsPart, frozen=True, kw_only=True):
    """One edge artifact. Shares are 0–1, drops percentage points, sizes bytes."""

    name: str
    file: str
    precision: Literal["fp32", "int8"]
    boundary: Literal["float", "wire"]
    weight_bytes: int
    file_bytes: int
    top1: float | None
    drop_points: tuple[float, float, float] | None
    share_identical: float | None
    share_within_1_lsb: float | None
    max_lsb: int | None
    speed: SpeedFigures | None
    attack: AttackFigures | None


class SplitFigures(ResultsPart, frozen=True, kw_only=True):
    """One cut. ``floor_db`` is the mean image's PSNR, ``image_bytes`` a stored image's size.

    ``wire_bytes``: of the boundary of one image, packed to ``wire_bits`` a value.
    """

    split: str
    bundle_id: Sha256
    boundary_shape: tuple[int, ...]
    wire_bits: int = 8
    wire_bytes: int
    image_bytes: int
    margin_db: float
    floor_db: float | None
    ceiling_db: float | None
    attacker_images: int
    victims: int
    attacker_seeds: tuple[int, ...]
    bench_valid: bool | None
    verdict: Verdict | None
    artifacts: tuple[ArtifactFigures, ...]


class Results(ResultsPart, frozen=True, kw_only=True):
    """What a page quotes of one run."""

    schema: Literal["edgeveil.results/1"] = "edgeveil.results/1"
    recipe: str
    data: str
    machine: str | None
    whole_network_top1: float | None
    versions: dict[str, str]
    splits: tuple[SplitFigures, ...]
