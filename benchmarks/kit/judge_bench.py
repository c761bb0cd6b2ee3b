"""A device's measurements as the record of ``bench``: validated and judged on the host."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.device.verdicts import measured_of
from benchmarks.interleaved import Observed, RunResult, run_result
from benchmarks.latency import X86_NOTE
from benchmarks.machine_state import CpuUse
from benchmarks.size import artifact_sizes, shipped, size_ratios
from benchmarks.wire_size import wire_size
from export.bundle import Bundle
from records.bench import (
    ArtifactSamples,
    BenchRecord,
    BenchTiming,
    SamplesFile,
    SamplesRecord,
    Skipped,
)
from records.counted import counted
from records.device import KitBench
from records.errors import RecordError
from records.hashing import sha256_bytes
from records.machine import MachineRecord
from records.recipe import BenchRecipe
from runtime_check.machine import X86

DEVICE_NOTE = "measured on a device by a kit: start-up and memory were not measured"
NO_IMAGES = "a kit measures no compressed sizes; run edgeveil bench on the host for them"


def device_bench(
    bundle: Bundle, recipe: BenchRecipe, found: Sequence[KitBench], file: str
) -> tuple[BenchRecord, bytes]:
    """Return the record of a device's measurements, and the file of their raw samples.

    Args:
        bundle: the verified bundle of the kit.
        recipe: of the measuring.
        found: what came back, one for each thread count that the device has cores for; ≥ 1.
        file: name of the samples' file.

    Raises:
        RecordError: what came back does not belong to this bundle, or contradicts itself.
    """
    for one in found:
        _refuse_strangers(bundle, one)
    machine = found[0].machine.record()
    results = [_result(bundle, recipe, one, machine) for one in found if one.artifacts]
    samples = _samples(bundle, results)
    sizes = artifact_sizes(shipped(bundle))
    record = BenchRecord(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        recipe=recipe,
        machine=machine,
        sizes=sizes,
        size_ratios=size_ratios(sizes),
        wire=wire_size(bundle, None, reason=NO_IMAGES),
        startup=(),
        latency=tuple(x for result in results for x in result.latency),
        speedups=tuple(x for result in results for x in result.speedups),
        runs=tuple(result.run for result in results),
        skipped=_skipped(recipe, found, machine),
        notes=(DEVICE_NOTE, *((X86_NOTE,) if machine.arch.lower() in X86 else ())),
        timing=BenchTiming(
            started_at=found[0].started_at,
            ended_at=found[-1].ended_at,
            seconds=sum(one.seconds for one in found),
            samples=SamplesFile(file=file, sha256=sha256_bytes(samples)),
        ),
    )
    return record, samples


def _refuse_strangers(bundle: Bundle, found: KitBench) -> None:
    names = [one.artifact for one in found.artifacts]
    if len(set(names)) != len(names) or not set(names) <= {a.name for a in bundle.edges()}:
        raise RecordError(f"the device timed {names}, which are not the bundle's edges")
    if len({len(one.blocks_ns) for one in found.artifacts}) > 1:
        raise RecordError("the device sent artifacts with different numbers of blocks in one run")


def _result(
    bundle: Bundle, recipe: BenchRecipe, found: KitBench, machine: MachineRecord
) -> RunResult:
    plain = msgspec.to_builtins(found)
    uses = CpuUse(**plain["use_before"]), CpuUse(**plain["use_after"])
    return run_result(
        [bundle.artifact(one.artifact) for one in found.artifacts],
        [one.mode for one in found.artifacts],
        tuple(measured_of(one) for one in plain["artifacts"]),
        recipe,
        found.threads,
        machine,
        Observed(
            (found.before.record(), found.after.record()),
            uses,
            found.started_at,
            found.ended_at,
            found.seconds,
        ),
    )


def _samples(bundle: Bundle, results: Sequence[RunResult]) -> bytes:
    record = SamplesRecord(
        bundle_id=bundle.manifest.bundle_id,
        timing=tuple(
            ArtifactSamples(artifact=m.name, threads=result.run.threads, blocks_ns=m.blocks)
            for result in results
            for m in result.measured
        ),
    )
    return msgspec.json.encode(record, order="sorted") + b"\n"


def _skipped(
    recipe: BenchRecipe, found: Sequence[KitBench], machine: MachineRecord
) -> tuple[Skipped, ...]:
    reasons = {one.artifact: one.reason for run in found for one in run.skipped}
    measured = {run.threads for run in found}
    return (
        *(Skipped(artifact=name, threads=None, reason=reasons[name]) for name in reasons),
        *(
            Skipped(
                artifact=None,
                threads=n,
                reason=f"only {counted(machine.cores, 'core')} may be used there",
            )
            for n in dict.fromkeys(recipe.threads)
            if n not in measured
        ),
    )
