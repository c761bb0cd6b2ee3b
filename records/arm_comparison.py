"""The record of ``benchmarks.arm_comparison``: our INT8 edges against plain exports of them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from records.instructions import ArtifactInstructions, Count, InstructionPart, Ratio
from records.manifest import Sha256
from records.target import SkippedArtifact, TargetRecord

SCHEMA = "edgeveil.arm-comparison/1"


class PlainExport(InstructionPart, frozen=True, kw_only=True):
    """Another tool's INT8 ONNX of the same float edge, by its documented recipe.

    ``activations``: integer type of activations; weights are int8, one scale an output channel.
    ``ratio``: ``all`` of our artifact divided by this one's. ``saves``: whether that is low enough.
    """

    tool: str
    activations: Literal["int8", "uint8"]
    sha256: Sha256
    file_bytes: Count
    counted: ArtifactInstructions
    ratio: Ratio
    saves: bool


class ExecutorchExport(InstructionPart, frozen=True, kw_only=True):
    """ExecuTorch's own INT8 program of the same float edge, and what the bundle has against it.

    Int8 activations, int8 weights with one scale an output channel, static. ``delegates``: parts
    of the graph that XNNPACK took. ``int8``: every INT8 edge of the bundle with a float boundary
    that runs on the target. ``best``: the one of them with the fewest instructions. ``ratio``:
    ``all`` of the best divided by that of ExecuTorch's own; ``not_above``: it is at most 1.
    """

    tool: str
    sha256: Sha256
    file_bytes: Count
    delegates: Count
    counted: ArtifactInstructions
    int8: Annotated[tuple[ArtifactInstructions, ...], Meta(min_length=1)]
    best: str
    ratio: Ratio
    not_above: bool


class ArmComparisonRecord(InstructionPart, frozen=True, kw_only=True):
    """Instructions of one inference of one image, one thread, each twice in fresh processes.

    ``calibration_images``, ``calibration_sha256``: what the plain exports were calibrated on, the
    bundle's own set. ``fp32``: the float edge in the same runtime. ``least_saving``: the share by
    which ours must be below every plain ONNX export. ``executorch``: None where ``skipped`` says
    why. ``passed``: all that was compared holds, and all counts are repeatable.
    """

    schema: Literal["edgeveil.arm-comparison/1"] = "edgeveil.arm-comparison/1"
    bundle_id: Sha256
    split: str
    input_shape: tuple[int, ...]
    target: TargetRecord
    versions: dict[str, str]
    calibration_images: Annotated[int, Meta(ge=1)]
    calibration_sha256: Sha256
    fp32: ArtifactInstructions
    ours: ArtifactInstructions
    plain: Annotated[tuple[PlainExport, ...], Meta(min_length=1)]
    least_saving: Annotated[float, Meta(ge=0.0, lt=1.0)]
    executorch: ExecutorchExport | None = None
    skipped: tuple[SkippedArtifact, ...] = ()
    note: str
    passed: bool
    started_at: str
    seconds: float
