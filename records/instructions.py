"""The record of ``bench`` on an emulated target: instructions per inference, and no time.

Instructions are not cycles: a core may finish several at once, or wait hundreds of cycles for one
load. They say how much work a kernel is given, not how long it takes.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.manifest import Boundary, Precision, Sha256
from records.parity import Mode, RuntimeName
from records.target import SkippedArtifact, TargetRecord

SCHEMA = "edgeveil.instructions/1"
NOTE = "instructions are not cycles: no latency follows from them"

Count = Annotated[int, Meta(ge=0)]
Ratio = Annotated[float, Meta(gt=0.0)]


class InstructionPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class Instructions(InstructionPart, frozen=True, kw_only=True):
    """AArch64 instructions by class; a class is contained in ``all``, and most in ``simd_fp``.

    ``simd_fp``: SIMD and floating-point data processing. ``dot``: 8-bit dot products (SDOT, UDOT).
    ``mmla``: 8-bit matrix products. ``widening_multiply``: SMLAL, SMULL and the unsigned ones.
    ``fmla``: SIMD fused multiply-add.
    """

    all: Count
    simd_fp: Count
    dot: Count
    mmla: Count
    widening_multiply: Count
    fmla: Count


class ArtifactInstructions(InstructionPart, frozen=True, kw_only=True):
    """One artifact: instructions of one inference of one image, one thread.

    ``runs``: one entry a fresh process of that runtime, the median over its inferences, class by
    class. ``mean``: over the runs. ``spread``: (largest − smallest) / smallest ``all`` of the runs.
    """

    artifact: str
    runtime: RuntimeName
    mode: Mode
    precision: Precision
    boundary: Boundary
    runs: Annotated[tuple[Instructions, ...], Meta(min_length=2)]
    mean: Instructions
    spread: Annotated[float, Meta(ge=0.0)]
    repeatable: bool


class InstructionRatio(InstructionPart, frozen=True, kw_only=True):
    """``all`` of an INT8 artifact divided by that of the FP32 artifact of the same runtime."""

    runtime: RuntimeName
    fp32: str
    int8: str
    ratio: Ratio


class InstructionRecord(InstructionPart, frozen=True, kw_only=True):
    """What ``bench`` counted on an emulated target.

    ``warmup``, ``inferences``: of each artifact in each process, uncounted and counted.
    ``spread_limit``: what ``spread`` must not exceed. ``call_overhead``: of ONNX Runtime called
    from Python on a model that does nothing; it is contained in every figure of that runtime.
    LiteRT and TorchScript Lite are called from Python too, ExecuTorch is from C++.
    """

    schema: Literal["edgeveil.instructions/1"] = "edgeveil.instructions/1"
    bundle_id: Sha256
    split: str
    target: TargetRecord
    warmup: Count
    inferences: Annotated[int, Meta(ge=1)]
    seed: int
    spread_limit: float
    artifacts: tuple[ArtifactInstructions, ...]
    ratios: tuple[InstructionRatio, ...]
    call_overhead: Instructions | None
    skipped: tuple[SkippedArtifact, ...]
    note: str
    passed: bool
    started_at: str
    seconds: float
