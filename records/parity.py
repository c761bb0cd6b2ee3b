"""What ``check`` found: how far each artifact is from its reference, and what that costs."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.manifest import Sha256
from records.recipe import CheckRecipe
from records.target import SkippedArtifact, TargetRecord

SCHEMA = "edgeveil.check/1"

Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]

#: How an artifact was run. ``qnnpack``: torch under that engine. ``default``: ONNX Runtime, all
#: optimizations. ``precise``: the same with session.x64quantprecision=1. ``optimizations-off``:
#: ONNX Runtime computes the graph as written, quantize and dequantize nodes around float operators.
#: ``xnnpack``: ExecuTorch or LiteRT with XNNPACK's kernels.
Mode = Literal["qnnpack", "default", "precise", "optimizations-off", "xnnpack"]

#: ``ort``: ONNX Runtime. ``ort-mobile``: the same from an ``.ort`` file, as it was saved.
#: ``lite``: TorchScript Lite under qnnpack. ``executorch``, ``litert``: with XNNPACK.
RuntimeName = Literal["ort", "ort-mobile", "lite", "executorch", "litert"]

#: Runtime → its word for ``bench --runtime``.
SPOKEN_RUNTIMES: dict[RuntimeName, str] = {
    "ort": "onnx",
    "ort-mobile": "ort",
    "lite": "lite",
    "executorch": "executorch",
    "litert": "litert",
}

GateName = Literal[
    "lite_max_lsb",
    "onnx_share_within_1_lsb",
    "onnx_share_identical",
    "share_within_2_lsb",
    "top1_agreement",
    "accuracy_drop_points",
    "convolutions_fused",
    "wire_equals_float",
    "target_max_lsb_from_host",
    "target_share_within_1_lsb",
    "fp32_parity_sqnr_db",
]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class VictimRecord(Part, frozen=True, kw_only=True):
    """The images of the check.

    ``is_manifest_set``: they are the whole victim set of the manifest. ``first_of``: they are the
    first ``count`` of a set of so many images; None when the whole set was used.
    """

    source: str
    count: Annotated[int, Meta(ge=1)]
    sha256: Sha256
    is_manifest_set: bool
    first_of: int | None = None


class OrtMode(Part, frozen=True, kw_only=True):
    """The mode in which ONNX Runtime ran here and the reason for it, one sentence."""

    mode: Mode
    has_vnni: bool
    reason: str


class WorstImage(Part, frozen=True, kw_only=True):
    """One of the images whose boundary is farthest from the reference.

    ``index``: place in the victim set. ``max_lsb``: largest difference of a value.
    ``sum_lsb``: sum of the differences of all its values.
    """

    index: Count
    max_lsb: Count
    sum_lsb: Count


class LsbDifference(Part, frozen=True, kw_only=True):
    """Difference of an INT8 artifact's boundary from eager INT8's, in LSB (steps of the scale).

    ``histogram[k]``: how many values differ by k, trailing zeros cut; it sums to ``values``.
    ``parity_sqnr_db``: 10·log10(Σ ref² / Σ (ref − artifact)²), high is good; None: no difference.
    ``off_grid``: values of a float boundary that are not exactly scale · (q − zero_point).
    ``worst``: at most 16 images that differ, worst first.
    """

    values: Annotated[int, Meta(ge=1)]
    max_lsb: Count
    histogram: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=256)]
    share_identical: Share
    share_within_1_lsb: Share
    parity_sqnr_db: float | None
    off_grid: Count
    worst: Annotated[tuple[WorstImage, ...], Meta(max_length=16)]


class Interval(Part, frozen=True, kw_only=True):
    """A point estimate with a two-sided paired bootstrap interval over images, in points (%)."""

    estimate: float
    low: float
    high: float
    confidence: float


class Accuracy(Part, frozen=True, kw_only=True):
    """Top-1 through the FP32 server half, as shares of the victim set.

    ``agreement``: share of images whose top-1 class is eager INT8's. ``disagreeing``: the first 16
    images where it is not. ``drop_points``: top-1 of the FP32 edge minus this one's, in percentage
    points; None for the FP32 edge itself. A negative drop is a gain.
    """

    top1: Share
    agreement: Share | None
    disagreeing: Annotated[tuple[Count, ...], Meta(max_length=16)]
    drop_points: Interval | None


class ArtifactCheck(Part, frozen=True, kw_only=True):
    """One artifact in one mode of its runtime; ``lsb`` is None for an FP32 artifact.

    ``reference`` marks eager INT8 itself, listed for its accuracy. ``gated``: gates apply to this
    row; a mode that is only listed for comparison has none.
    """

    artifact: str
    runtime: Literal[RuntimeName, "eager"]
    mode: Mode
    precision: Literal["fp32", "int8"]
    boundary: Literal["float", "wire"]
    reference: bool
    gated: bool
    accuracy: Accuracy
    lsb: LsbDifference | None = None


class FloatParity(Part, frozen=True, kw_only=True):
    """The FP32 edge in two runtimes: ``artifact`` against ``reference``, real values.

    ``parity_sqnr_db``: as in `LsbDifference`; None: no difference. ``max_abs``: largest absolute
    difference, in units of the boundary.
    """

    artifact: str
    reference: str
    mode: Mode
    parity_sqnr_db: float | None
    max_abs: Annotated[float, Meta(ge=0.0)]


class WireEquality(Part, frozen=True, kw_only=True):
    """Dequantized wire artifact against the float boundary of the same runtime and mode.

    ``differing``: values that are not equal bit for bit. ``first_image``: the first image with one.
    """

    wire: str
    float_boundary: str
    mode: Mode
    differing: Count
    first_image: int | None


class Fusion(Part, frozen=True, kw_only=True):
    """What became of the convolutions of a QDQ ONNX artifact in ONNX Runtime's optimized graph."""

    artifact: str
    convolutions: Count
    fused: Count
    left_in_float: tuple[str, ...]


class OperatorDifference(Part, frozen=True, kw_only=True):
    """One operator that a runtime computes otherwise than eager INT8, run alone on eager's inputs.

    ``node``: of the eager graph. ``operator``: what the graph calls. ``values``: of its output,
    over the images looked at; ``differing`` of them are another integer, by ``max_lsb`` at most.
    """

    runtime: RuntimeName
    node: str
    operator: str
    kind: str
    values: Annotated[int, Meta(ge=1)]
    differing: Count
    max_lsb: Count


class Gate(Part, frozen=True, kw_only=True):
    """One tolerance, fixed in the recipe before the check, and what was measured.

    ``mode``: the mode of the runtime it was measured in. ``measured`` is None for "no
    difference at all" where the gate is on a parity_sqnr_db.
    """

    name: GateName
    artifact: str
    mode: Mode
    bound: Literal["at most", "at least"]
    limit: float
    measured: float | None
    passed: bool


class Evidence(Part, frozen=True, kw_only=True):
    """Inputs and outputs of the worst images of the artifacts that failed, as an npz file."""

    file: str
    sha256: Sha256


class HostDifference(Part, frozen=True, kw_only=True):
    """One INT8 artifact on the target, in ``mode``, beside the same file on the host.

    ``host_mode``: the host's. ``from_host``: the target's boundary against the host's.
    ``host_from_eager``: the host's boundary against eager INT8, as a check of the host finds it.
    """

    artifact: str
    mode: Mode
    host_mode: Mode
    from_host: LsbDifference
    host_from_eager: LsbDifference


class CheckRecord(Part, frozen=True, kw_only=True):
    """The whole check of a bundle; ``passed`` only when every gate passed.

    ``target``: where the artifacts ran, None for this process. Eager INT8 and the server half
    always run on the host. On a target, ``ort`` speaks of the target, ``host`` compares with the
    host, and ``host_fp32`` holds the FP32 edges against the host's. ``skipped`` names what did not
    run there, or, without a target, whose runtime is not installed here. ``operators``: where a
    value of ``.tflite`` is more than 2 LSB off, or ``share_within_2_lsb`` failed here, the
    operators that the runtime computes otherwise on the worst images, on this host.
    """

    schema: Literal["edgeveil.check/1"] = "edgeveil.check/1"
    bundle_id: Sha256
    split: str
    recipe: CheckRecipe
    victims: VictimRecord
    ort: OrtMode
    threads: Annotated[int, Meta(ge=1)]
    versions: dict[str, str]
    artifacts: tuple[ArtifactCheck, ...]
    fp32_parity: tuple[FloatParity, ...]
    wire_equality: tuple[WireEquality, ...]
    fusion: tuple[Fusion, ...]
    gates: tuple[Gate, ...]
    passed: bool
    evidence: Evidence | None = None
    target: TargetRecord | None = None
    host: tuple[HostDifference, ...] = ()
    host_fp32: tuple[FloatParity, ...] = ()
    skipped: tuple[SkippedArtifact, ...] = ()
    operators: tuple[OperatorDifference, ...] = ()
    started_at: str
    seconds: float
