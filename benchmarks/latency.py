"""``bench_bundle``: sizes, start-up, latencies and speed-ups of a bundle on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.interleaved import RunResult, measure_run
from benchmarks.size import artifact_sizes, runtime_name, shipped, size_ratios
from benchmarks.startup import measure_startup
from benchmarks.victims import load_victims
from benchmarks.wire_size import wire_size
from export.bundle import Bundle
from records import files
from records.bench import (
    NOT_ASKED_FOR,
    ArtifactSamples,
    BenchRecord,
    BenchTiming,
    SamplesFile,
    SamplesRecord,
    Skipped,
    Startup,
)
from records.hashing import sha256_file
from records.machine import MachineRecord
from records.manifest import Artifact
from records.parity import RuntimeName
from records.progress import Progress, silent
from records.recipe import BenchRecipe
from runtime_check.availability import why_not_here
from runtime_check.machine import is_x86, machine_record

RUNTIMES: tuple[RuntimeName, ...] = ("ort", "ort-mobile", "lite", "executorch", "litert")

X86_NOTE = "measured on x86: this says nothing about the speed on an ARM device"


def bench_bundle(
    bundle: Bundle,
    recipe: BenchRecipe,
    *,
    images: npt.NDArray[np.uint8] | None = None,
    runtimes: Sequence[RuntimeName] = RUNTIMES,
    samples: Path | None = None,
    progress: Progress = silent,
) -> BenchRecord:
    """Measure a bundle here; whatever this machine cannot run is listed as skipped.

    For each thread count all edge artifacts, FP32 and INT8, are timed in one interleaved run.
    Loading, first inference and memory are measured apart, each artifact in a fresh process with
    the first thread count.

    Args:
        bundle: a verified bundle.
        recipe: thread counts, batch size, floors, seed, confidence.
        images: uint8 (N, H, H, 3) victims at the native size, for the compressed wire bytes; None
            loads the bundle's own, and leaves these figures out where that fails.
        runtimes: those that are asked for.
        samples: write every raw sample to this JSON file (replaced when it exists); None drops
            them.
        progress: told about each round.

    Returns:
        The record; ``record.valid`` is False when nothing was measured or a run was INVALID.

    Raises:
        ArtifactError: an artifact does not load or run.
        DataError: ``images`` have another size than the bundle's.
    """
    started, begin = _now(), time.monotonic()
    machine = machine_record()
    all_sizes = artifact_sizes(shipped(bundle))
    chosen, skipped = _choose(bundle, runtimes)
    threads, too_many = _thread_counts(recipe, machine)
    reason = None
    if images is None:
        images, reason = load_victims(bundle.manifest)
    wire = wire_size(bundle, images, reason=reason, progress=progress)
    startup = _startups(bundle, chosen, recipe, threads, progress)
    results = _runs(bundle, chosen, recipe, threads, machine, progress)
    kept = _keep_samples(bundle, results, samples)
    return BenchRecord(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        recipe=recipe,
        machine=machine,
        sizes=all_sizes,
        size_ratios=size_ratios(all_sizes),
        wire=wire,
        startup=startup,
        latency=tuple(x for result in results for x in result.latency),
        speedups=tuple(x for result in results for x in result.speedups),
        runs=tuple(result.run for result in results),
        skipped=(*skipped, *too_many),
        notes=_notes(machine),
        timing=BenchTiming(
            started_at=started,
            ended_at=_now(),
            seconds=time.monotonic() - begin,
            samples=kept,
        ),
    )


def _choose(
    bundle: Bundle, runtimes: Sequence[RuntimeName]
) -> tuple[tuple[Artifact, ...], tuple[Skipped, ...]]:
    chosen: list[Artifact] = []
    skipped: list[Skipped] = []
    for artifact in shipped(bundle):
        if artifact.role != "edge":
            continue
        reason = _why_not(artifact, runtimes)
        if reason is None:
            chosen.append(artifact)
        else:
            skipped.append(Skipped(artifact=artifact.name, threads=None, reason=reason))
    return tuple(chosen), tuple(skipped)


def _why_not(artifact: Artifact, runtimes: Sequence[RuntimeName]) -> str | None:
    if runtime_name(artifact) not in runtimes:
        return NOT_ASKED_FOR
    reason = why_not_here(artifact)
    if reason is None and artifact.format == "torchscript-lite":
        return _why_no_qnnpack()
    return reason


def _why_no_qnnpack() -> str | None:
    import torch

    if "qnnpack" not in torch.backends.quantized.supported_engines:
        return "this build of torch has no qnnpack engine"
    return None


def _thread_counts(
    recipe: BenchRecipe, machine: MachineRecord
) -> tuple[tuple[int, ...], tuple[Skipped, ...]]:
    counts = tuple(dict.fromkeys(recipe.threads))
    return tuple(n for n in counts if n <= machine.cores), tuple(
        Skipped(artifact=None, threads=n, reason=f"only {machine.cores} cores may be used here")
        for n in counts
        if n > machine.cores
    )


def _startups(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    recipe: BenchRecipe,
    threads: Sequence[int],
    progress: Progress,
) -> tuple[Startup, ...]:
    if not threads:
        return ()
    found: list[Startup] = []
    for artifact in artifacts:
        found.append(
            measure_startup(bundle, artifact, threads=threads[0], batch_size=recipe.batch_size)
        )
        progress("bench: start-up and memory", len(found), len(artifacts))
    return tuple(found)


def _runs(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    recipe: BenchRecipe,
    threads: Sequence[int],
    machine: MachineRecord,
    progress: Progress,
) -> tuple[RunResult, ...]:
    if not artifacts:
        return ()
    return tuple(
        measure_run(bundle, artifacts, recipe, n, machine=machine, progress=progress)
        for n in threads
    )


def _keep_samples(
    bundle: Bundle, results: Sequence[RunResult], path: Path | None
) -> SamplesFile | None:
    if path is None:
        return None
    record = SamplesRecord(
        bundle_id=bundle.manifest.bundle_id,
        timing=tuple(
            ArtifactSamples(artifact=m.name, threads=result.run.threads, blocks_ns=m.blocks)
            for result in results
            for m in result.measured
        ),
    )
    files.write_bytes(path, msgspec.json.encode(record, order="sorted") + b"\n", replace=True)
    return SamplesFile(file=path.name, sha256=sha256_file(path))


def _notes(machine: MachineRecord) -> tuple[str, ...]:
    notes: list[str] = []
    if is_x86():
        notes.append(X86_NOTE)
    if machine.virtual is not None:
        notes.append(f"measured in a {machine.virtual}: neighbours and the host are not seen")
    if machine.ort_mode == "precise":
        notes.append(
            "ONNX Runtime ran INT8 in its precise mode (x86 without VNNI): slower than the default "
            "mode, whose outputs would be wrong here"
        )
    return tuple(notes)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
