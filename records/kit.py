"""``kit.json``: what a kit carries beside its bundle, and the hash of every file in it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.manifest import Sha256
from records.parity import Mode
from records.recipe import BenchRecipe

SCHEMA = "edgeveil.kit/1"
KIT_NAME = "kit.json"
#: Victims that a kit carries when nothing is said.
KIT_VICTIMS = 64


class KitPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class KitArray(KitPart, frozen=True, kw_only=True):
    """One array as a file of raw little-endian values in C order."""

    file: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]


class KitSample(KitPart, frozen=True, kw_only=True):
    """The victims that a kit carries: uint8 (N, H, H, 3), the first of the bundle's.

    ``sha256``: over images and labels, as a manifest records a set. ``input_sha256``: of the bytes
    of the preprocessed batch, float32 (N, 3, S, S).
    """

    source: str
    count: Annotated[int, Meta(ge=1)]
    first_of: int | None
    sha256: Sha256
    input_sha256: Sha256


class KitLimits(KitPart, frozen=True, kw_only=True):
    """The limits of one artifact on a device, from the bundle's recipe; None: not held to it.

    ``max_lsb`` and the shares hold against eager INT8, ``max_lsb_from_host`` and, of an FP32 edge,
    ``parity_sqnr_db`` against the host.
    """

    max_lsb: int | None = None
    max_lsb_from_host: int | None = None
    share_within_1_lsb: float | None = None
    share_within_2_lsb: float | None = None
    share_identical: float | None = None
    parity_sqnr_db: float | None = None


class KitRecord(KitPart, frozen=True, kw_only=True):
    """What a kit is.

    ``files``: path in the kit → SHA-256, of every file but this one. ``arrays``: ``images``,
    ``eager`` (uint8 boundary of eager INT8) and the host's boundary of each edge by its name.
    ``host_modes``: the mode in which the host ran an edge. Without a ``sample`` the kit has no
    arrays and can be measured only.
    """

    schema: Literal["edgeveil.kit/1"] = "edgeveil.kit/1"
    bundle_id: Sha256
    split: str
    bench: BenchRecipe
    limits: dict[str, KitLimits]
    sample: KitSample | None
    arrays: dict[str, KitArray]
    host_modes: dict[str, Mode]
    files: dict[str, Sha256]


class KitFile(KitPart, frozen=True, kw_only=True):
    """One archive that ``edgeveil kit`` wrote."""

    file: str
    sha256: Sha256
    size: int
    kit: KitRecord
