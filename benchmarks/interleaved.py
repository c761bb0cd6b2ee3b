"""One interleaved run: every artifact with one thread count, its latencies and its validity."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from benchmarks.machine_state import CpuUse, cpu_use, machine_state
from benchmarks.size import runtime_name
from benchmarks.speedup import SMALLEST_EFFECT, speed_ratio
from benchmarks.timing import Measured, Subject, interleave, nearest_rank
from benchmarks.validity import criteria
from export.bundle import Bundle
from records.bench import Latency, LatencyTiming, MeasuredRun, RunTiming, SpeedUp, SpeedUpTiming
from records.machine import MachineRecord, MachineState
from records.manifest import Artifact
from records.parity import Mode
from records.progress import Progress
from records.recipe import BenchRecipe
from runtime_check.runtime import LoadedArtifact, runtime_for

INPUT = "standard normal noise, seeded"

LITE_NOTE = (
    "the FP32 .ptl has not passed through optimize_for_mobile, which torch 2.14 no longer offers: "
    "against an optimized one the ratio would be lower"
)


@dataclass(frozen=True)
class RunResult:
    """What one interleaved run gives to the record."""

    run: MeasuredRun
    latency: tuple[Latency, ...]
    speedups: tuple[SpeedUp, ...]
    measured: tuple[Measured, ...]


@dataclass(frozen=True)
class Observed:
    """What one interleaved run met: the machine before and after it, and when it was."""

    states: tuple[MachineState, MachineState]
    uses: tuple[CpuUse, CpuUse]
    started_at: str
    ended_at: str
    seconds: float


def measure_run(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    recipe: BenchRecipe,
    threads: int,
    *,
    machine: MachineRecord,
    progress: Progress,
) -> RunResult:
    """Load every artifact with ``threads`` threads and time them, interleaved.

    Args:
        bundle: a verified bundle.
        artifacts: edges of it that run here, at least one.
        recipe: floors, batch size, seed and confidence.
        threads: threads inside an operator, ≤ the machine's cores.
        machine: the machine's record.
        progress: told about each round.

    Raises:
        ArtifactError: an artifact does not load or run.
        UnsupportedHereError: a runtime is not installed here.
    """
    with _process_threads(artifacts, threads):
        loaded = [runtime_for(a).load(bundle, a, threads=threads) for a in artifacts]
        batch = _batch(artifacts[0].input.shape, recipe)
        subjects = [
            Subject(a.name, _call(x, batch)) for a, x in zip(artifacts, loaded, strict=True)
        ]
        started, begin = _now(), time.monotonic()
        before, use_before = machine_state(), cpu_use()
        measured = interleave(
            subjects, recipe, progress=progress, task=f"bench: latency, threads {threads}"
        )
        use_after, after = cpu_use(), machine_state()
        seconds = time.monotonic() - begin
    observed = Observed((before, after), (use_before, use_after), started, _now(), seconds)
    modes = [one.mode for one in loaded]
    return run_result(artifacts, modes, measured, recipe, threads, machine, observed)


def run_result(
    artifacts: Sequence[Artifact],
    modes: Sequence[Mode],
    measured: tuple[Measured, ...],
    recipe: BenchRecipe,
    threads: int,
    machine: MachineRecord,
    observed: Observed,
) -> RunResult:
    """Judge one interleaved run and compute its figures, wherever it was measured.

    Args:
        artifacts: those that were timed, at least one.
        modes: of their runtimes, in the same order.
        measured: their samples, in the same order.
        recipe: batch size, seed and confidence.
        threads: threads inside an operator.
        machine: where it ran.
        observed: what it met there.
    """
    judged = criteria(measured, machine, observed.states, observed.uses)
    timing = RunTiming(
        valid=all(criterion.met for criterion in judged),
        criteria=judged,
        started_at=observed.started_at,
        ended_at=observed.ended_at,
        seconds=observed.seconds,
        before=observed.states[0],
        after=observed.states[1],
    )
    run = MeasuredRun(
        threads=threads,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        input=INPUT,
        artifacts=tuple(a.name for a in artifacts),
        timing=timing,
    )
    latency = tuple(
        _latency(a, x, m, run) for a, x, m in zip(artifacts, modes, measured, strict=True)
    )
    return RunResult(run, latency, _speedups(artifacts, measured, recipe, run), measured)


def summarize(measured: Measured) -> LatencyTiming:
    """Return the statistics of one subject's samples in milliseconds, nearest-rank."""
    samples = measured.samples
    return LatencyTiming(
        samples=int(samples.size),
        blocks=len(measured.blocks),
        mean_ms=_ms(float(samples.mean())),
        min_ms=_ms(samples.min()),
        p50_ms=_ms(nearest_rank(samples, 50)),
        p90_ms=_ms(nearest_rank(samples, 90)),
        p95_ms=_ms(nearest_rank(samples, 95)),
        p99_ms=_ms(nearest_rank(samples, 99)),
        max_ms=_ms(samples.max()),
        cpu_per_wall=round(measured.cpu_seconds / max(measured.wall_seconds, 1e-9), 3),
    )


def compare(fp32: Measured, int8: Measured, recipe: BenchRecipe, *, valid: bool) -> SpeedUpTiming:
    """Return the speed-up of one artifact over another; an INVALID run gives no figure."""
    if not valid:
        return SpeedUpTiming(ratio=None, low=None, high=None, verdict="not given")
    found = speed_ratio(fp32.blocks, int8.blocks, confidence=recipe.confidence, seed=recipe.seed)
    return SpeedUpTiming(
        ratio=round(found.ratio, 6),
        low=round(found.low, 6),
        high=round(found.high, 6),
        verdict=found.verdict,
    )


def _speedups(
    artifacts: Sequence[Artifact],
    measured: Sequence[Measured],
    recipe: BenchRecipe,
    run: MeasuredRun,
) -> tuple[SpeedUp, ...]:
    pairs = list(zip(artifacts, measured, strict=True))
    return tuple(
        SpeedUp(
            fp32=fp32.name,
            int8=int8.name,
            same_runtime=fp32.format == int8.format,
            threads=run.threads,
            batch_size=run.batch_size,
            confidence=recipe.confidence,
            smallest_effect=SMALLEST_EFFECT,
            timing=compare(slow, fast, recipe, valid=run.timing.valid),
            note=LITE_NOTE if fp32.format == "torchscript-lite" else None,
        )
        for fp32, slow in pairs
        for int8, fast in pairs
        if (fp32.precision, int8.precision) == ("fp32", "int8")
    )


def _latency(artifact: Artifact, mode: Mode, measured: Measured, run: MeasuredRun) -> Latency:
    return Latency(
        artifact=artifact.name,
        runtime=runtime_name(artifact),
        mode=mode,
        precision=artifact.precision,
        boundary=artifact.boundary,
        threads=run.threads,
        batch_size=run.batch_size,
        timing=summarize(measured),
    )


def _call(loaded: LoadedArtifact, batch: npt.NDArray[np.float32]) -> Callable[[], object]:
    def run() -> object:
        return loaded.run(batch)

    return run


def _batch(shape: tuple[int, ...], recipe: BenchRecipe) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(recipe.seed)
    return rng.standard_normal((recipe.batch_size, *shape), dtype=np.float32)


@contextlib.contextmanager
def _process_threads(artifacts: Sequence[Artifact], threads: int) -> Iterator[None]:
    """Set torch's thread count once: its runtime would else resize the pool at every call."""
    if not any(a.format == "torchscript-lite" for a in artifacts):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ms(nanoseconds: float) -> float:
    return round(float(nanoseconds) / 1e6, 6)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
