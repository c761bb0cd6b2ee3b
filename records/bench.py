"""The record of ``bench``: sizes, latencies, speed-ups, and whether the measuring was sound.

Whatever two runs on one machine may differ in sits under a key named ``timing``; sizes and the
list of what was measured and what was skipped do not.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.machine import MachineRecord, MachineState
from records.manifest import Boundary, Precision, Sha256
from records.parity import Mode, RuntimeName
from records.recipe import BenchRecipe

SCHEMA = "edgeveil.bench/1"
SAMPLES_SCHEMA = "edgeveil.bench-samples/1"

#: Why ``bench --runtime`` skips the artifacts of the other runtimes.
NOT_ASKED_FOR = "its runtime was not asked for"

Bytes = Annotated[int, Meta(ge=0)]

#: ``not given``: the run was INVALID, so nothing is said about speed.
SpeedVerdict = Literal["faster", "slower", "no speed-up shown", "not given"]


class BenchPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class ArtifactSize(BenchPart, frozen=True, kw_only=True):
    """Bytes of one artifact: of its weights and biases as stored, and of its file."""

    artifact: str
    role: Literal["edge", "server"]
    runtime: RuntimeName
    precision: Precision
    boundary: Boundary
    weight_bytes: Bytes
    file_bytes: Bytes
    sha256: Sha256


class SizeRatio(BenchPart, frozen=True, kw_only=True):
    """FP32 bytes / INT8 bytes of two edge artifacts of one runtime; more than 1 is smaller."""

    runtime: RuntimeName
    fp32: str
    int8: str
    weight_ratio: float | None
    file_ratio: float


class CompressedSize(BenchPart, frozen=True, kw_only=True):
    """Bytes after lossless compression of each image's tensor on its own.

    ``method`` says with what. Percentiles are nearest-rank over the ``images`` images.
    """

    method: str
    images: Annotated[int, Meta(ge=1)]
    mean: float
    p5: Bytes
    p50: Bytes
    p95: Bytes


class WireSize(BenchPart, frozen=True, kw_only=True):
    """Bytes per image on the wire, beside the image itself.

    ``raw_bytes``: the uint8 boundary tensor, one value a byte. ``bits``: of each value.
    ``packed_bytes``: the same without unused bits (docs/wire-format.md). ``float_bytes``: the
    same boundary in FP32. ``image_bytes``: the stored H·W·3 uint8 image. ``compressed`` (of the
    packed tensor) and ``image_compressed``: over real victim images through ``artifact``; None
    when there were none, and then ``not_measured`` says why.
    """

    shape: tuple[int, ...]
    raw_bytes: Bytes
    bits: Annotated[int, Meta(ge=1, le=8)] = 8
    packed_bytes: Bytes
    float_bytes: Bytes
    image_bytes: Bytes
    artifact: str | None
    compressed: CompressedSize | None
    image_compressed: CompressedSize | None
    not_measured: str | None


class StartupTiming(BenchPart, frozen=True, kw_only=True):
    """One fresh process: milliseconds to load and for the first inference, and bytes of memory.

    ``baseline_bytes``: peak resident set after the runtime is imported, before the artifact is
    loaded (reset to the current one where the kernel allows: ``baseline_reset``).
    ``peak_bytes``: peak resident set after loading and the runs. ``added_bytes``: the difference.
    """

    load_ms: float
    first_inference_ms: float
    baseline_bytes: Bytes
    peak_bytes: Bytes
    added_bytes: Bytes
    baseline_reset: bool


class Startup(BenchPart, frozen=True, kw_only=True):
    """Loading and memory of one artifact, in a process of its own; ``failure`` when it failed."""

    artifact: str
    runtime: RuntimeName
    threads: int
    batch_size: int
    timing: StartupTiming | None
    failure: str | None = None


class LatencyTiming(BenchPart, frozen=True, kw_only=True):
    """Milliseconds of one ``run`` of one batch; percentiles by nearest rank.

    ``samples``: how many runs; ``blocks``: in how many interleaved blocks.
    ``cpu_per_wall``: CPU seconds of this process per second of measuring (≈ threads in use).
    """

    samples: int
    blocks: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    cpu_per_wall: float


class Latency(BenchPart, frozen=True, kw_only=True):
    """The latency of one artifact with one thread count; invalid if its ``MeasuredRun`` is."""

    artifact: str
    runtime: RuntimeName
    mode: Mode
    precision: Precision
    boundary: Boundary
    threads: int
    batch_size: int
    timing: LatencyTiming


class SpeedUpTiming(BenchPart, frozen=True, kw_only=True):
    """Median(FP32) / median(INT8) with a bootstrap interval; more than 1 is faster.

    ``ratio`` and its interval are None in an INVALID run.
    """

    ratio: float | None
    low: float | None
    high: float | None
    verdict: SpeedVerdict


class SpeedUp(BenchPart, frozen=True, kw_only=True):
    """INT8 against FP32, measured in one interleaved run.

    ``same_runtime`` is False for INT8 of one runtime against FP32 of the other.
    ``note`` says what a reader must know before quoting the figure.
    """

    fp32: str
    int8: str
    same_runtime: bool
    threads: int
    batch_size: int
    confidence: float
    smallest_effect: float
    timing: SpeedUpTiming
    note: str | None = None


class Criterion(BenchPart, frozen=True, kw_only=True):
    """One condition of a sound measurement: ``value`` must not exceed ``limit``.

    ``value`` is None where this machine does not tell; such a condition is not held against the
    run. ``where``: the artifact or sensor that was worst.
    """

    name: str
    value: float | None
    limit: float
    met: bool
    where: str | None = None


class RunTiming(BenchPart, frozen=True, kw_only=True):
    """When an interleaved run happened, and whether it may be believed."""

    valid: bool
    criteria: tuple[Criterion, ...]
    started_at: str
    ended_at: str
    seconds: float
    before: MachineState
    after: MachineState


class MeasuredRun(BenchPart, frozen=True, kw_only=True):
    """One interleaved run over all artifacts with one thread count; ``input`` is what they got."""

    threads: int
    batch_size: int
    seed: int
    input: str
    artifacts: tuple[str, ...]
    timing: RunTiming


class Skipped(BenchPart, frozen=True, kw_only=True):
    """What was not measured, and why; ``threads`` is None for an artifact as a whole."""

    artifact: str | None
    threads: int | None
    reason: str


class SamplesFile(BenchPart, frozen=True, kw_only=True):
    """The file beside the record that keeps the raw samples."""

    file: str
    sha256: Sha256


class BenchTiming(BenchPart, frozen=True, kw_only=True):
    """When the whole bench ran, and where the raw samples are (None when not asked for)."""

    started_at: str
    ended_at: str
    seconds: float
    samples: SamplesFile | None


class BenchRecord(BenchPart, frozen=True, kw_only=True):
    """What ``bench`` found out about a bundle on one machine."""

    schema: Literal["edgeveil.bench/1"] = "edgeveil.bench/1"
    bundle_id: Sha256
    split: str
    recipe: BenchRecipe
    machine: MachineRecord
    sizes: tuple[ArtifactSize, ...]
    size_ratios: tuple[SizeRatio, ...]
    wire: WireSize
    startup: tuple[Startup, ...]
    latency: tuple[Latency, ...]
    speedups: tuple[SpeedUp, ...]
    runs: tuple[MeasuredRun, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    timing: BenchTiming

    @property
    def valid(self) -> bool:
        """Whether something was measured and every interleaved run was sound."""
        return bool(self.runs) and all(run.timing.valid for run in self.runs)


class ArtifactSamples(BenchPart, frozen=True, kw_only=True):
    """Raw samples of one artifact and thread count: nanoseconds, block by block, in order."""

    artifact: str
    threads: int
    blocks_ns: tuple[tuple[int, ...], ...]


class SamplesRecord(BenchPart, frozen=True, kw_only=True):
    """Every raw sample of a bench, for whoever wants to compute other statistics."""

    schema: Literal["edgeveil.bench-samples/1"] = "edgeveil.bench-samples/1"
    bundle_id: Sha256
    timing: tuple[ArtifactSamples, ...]
