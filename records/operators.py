"""The record of ``edgeveil operators``: what each artifact asks of the runtime that opens it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from records.manifest import ArtifactFormat, FileName, Part, Precision, Sha256


class OperatorUse(Part, frozen=True, kw_only=True):
    """An operator, qualified as its format does it, and how many nodes or calls use it."""

    name: str
    uses: Annotated[int, Meta(ge=1)]


class ArtifactOperators(Part, frozen=True, kw_only=True):
    """One file. ``versions``: of the format and of the operator sets in use, as it stores them."""

    artifact: FileName
    file: FileName
    format: ArtifactFormat
    precision: Precision
    versions: dict[str, int]
    operators: tuple[OperatorUse, ...]


class OperatorsRecord(Part, frozen=True, kw_only=True):
    """The edge artifacts of a bundle, read from their bytes; no runtime was loaded."""

    schema: Literal["edgeveil.operators/1"] = "edgeveil.operators/1"
    bundle_id: Sha256
    artifacts: tuple[ArtifactOperators, ...]
