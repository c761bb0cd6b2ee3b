"""``count_instructions``: instructions per inference of a bundle's artifacts on an emulated CPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.latency import RUNTIMES
from benchmarks.size import runtime_name
from export.bundle import Bundle
from records.bench import NOT_ASKED_FOR
from records.errors import UnsupportedHereError
from records.instructions import (
    NOTE,
    ArtifactInstructions,
    InstructionRatio,
    InstructionRecord,
    Instructions,
)
from records.manifest import Artifact, ArtifactFormat, TensorSpec
from records.parity import RuntimeName
from records.progress import Progress, silent
from records.target import SkippedArtifact
from runtime_check.onnx_bytes import identity_model
from runtime_check.targets.counters import CLASSES, differences, median_counts, parse_marks
from runtime_check.targets.remote import RemoteArtifact, send
from runtime_check.targets.session import RunnerSession
from runtime_check.targets.target import Target

#: Buffers and caches of a runtime have grown by then (its tenth inference still grew some, once).
WARMUP = 10
INFERENCES = 31
PROCESSES = 2
#: Formats whose runtime counts otherwise after another artifact.
_ALONE = frozenset({"onnx", "ort"})
#: Two runs may differ by so much; three hundredths of a percent have been seen.
SPREAD_LIMIT = 0.001

Batch = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Subject:
    """One thing to count: an artifact and its bytes."""

    artifact: Artifact
    data: bytes


def count_instructions(
    bundle: Bundle,
    target: Target,
    *,
    runtimes: Sequence[RuntimeName] = RUNTIMES,
    seed: int = 0,
    progress: Progress = silent,
) -> InstructionRecord:
    """Count the instructions of one inference of every edge artifact, twice, in fresh processes.

    One image, one thread; the median over inferences, so that one that was disturbed drops out.

    Args:
        bundle: a verified bundle.
        target: an emulated CPU.
        runtimes: those that are asked for.
        seed: of the input, which is standard normal.
        progress: told about each artifact.

    Returns:
        The record; ``passed`` is false when two processes differ by more than `SPREAD_LIMIT`.

    Raises:
        ArtifactError: an artifact does not load or run there.
        UnsupportedHereError: no artifact runs there, or nothing counts instructions there.
    """
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    chosen, skipped = _choose(bundle, target, runtimes)
    subjects = [_Subject(artifact, bundle.read(artifact)) for artifact in chosen]
    identity = _identity(chosen)
    batch = np.random.default_rng(seed).standard_normal((1, *bundle.manifest.input.shape))
    runs = list(_runs(target, [*subjects, *identity], batch.astype(np.float32), progress))
    counted = tuple(
        _counted(target, artifact, [run[number] for run in runs])
        for number, artifact in enumerate(chosen)
    )
    return InstructionRecord(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        target=target.record,
        warmup=WARMUP,
        inferences=INFERENCES,
        seed=seed,
        spread_limit=SPREAD_LIMIT,
        artifacts=counted,
        ratios=tuple(_ratios(counted)),
        call_overhead=_mean([run[-1] for run in runs]) if identity else None,
        skipped=skipped,
        note=NOTE,
        passed=all(one.repeatable for one in counted),
        started_at=started,
        seconds=time.monotonic() - begin,
    )


def count_models(
    target: Target,
    models: Sequence[tuple[Artifact, bytes]],
    batch: Batch,
    *,
    progress: Progress = silent,
) -> tuple[ArtifactInstructions, ...]:
    """Count models that need not belong to a bundle, as `count_instructions` does.

    Args:
        target: an emulated CPU.
        models: what each is, and its bytes.
        batch: float32 (1, *input.shape), which all of them take.
        progress: told about each model.

    Raises:
        ArtifactError: one does not load or run there.
        UnsupportedHereError: nothing counts instructions there.
    """
    subjects = [_Subject(artifact, data) for artifact, data in models]
    runs = list(_runs(target, subjects, batch, progress))
    return tuple(
        _counted(target, artifact, [run[number] for run in runs])
        for number, (artifact, _) in enumerate(models)
    )


def _choose(
    bundle: Bundle, target: Target, runtimes: Sequence[RuntimeName]
) -> tuple[tuple[Artifact, ...], tuple[SkippedArtifact, ...]]:
    chosen: list[Artifact] = []
    skipped: list[SkippedArtifact] = []
    for artifact in bundle.edges():
        reason = target.missing(artifact)
        if reason is None and runtime_name(artifact) not in runtimes:
            reason = NOT_ASKED_FOR
        if reason is None:
            chosen.append(artifact)
        else:
            skipped.append(SkippedArtifact(artifact=artifact.name, reason=reason))
    if not chosen:
        raise UnsupportedHereError(
            f"no artifact can be counted on {target.record.name}: "
            + "; ".join(dict.fromkeys(skip.reason for skip in skipped))
        )
    return tuple(chosen), tuple(skipped)


def _identity(chosen: Iterable[Artifact]) -> list[_Subject]:
    """Return a model that does nothing, where ONNX Runtime is counted at all."""
    for artifact in chosen:
        if artifact.format == "onnx":
            shape = artifact.input.shape
            nothing = msgspec.structs.replace(
                artifact,
                name="identity",
                input=TensorSpec(name="x", shape=shape, dtype="float32"),
                output=TensorSpec(name="y", shape=shape, dtype="float32"),
            )
            return [_Subject(nothing, identity_model(shape))]
    return []


def _runs(
    target: Target, subjects: Sequence[_Subject], batch: Batch, progress: Progress
) -> Iterator[list[Instructions]]:
    """Yield what each repetition found, in the order of the subjects.

    ONNX Runtime gets a fresh process for every artifact: what was loaded before leaves memory in
    another state, and the same artifact was seen to differ by two thousandths. The other runtimes
    were not, and torch alone takes a minute to start under the counter: one process for each.
    """
    total, done = PROCESSES * len(subjects), 0
    sharing: dict[tuple[ArtifactFormat, int | None], list[int]] = {}
    for number, subject in enumerate(subjects):
        kind = subject.artifact.format
        sharing.setdefault((kind, number if kind in _ALONE else None), []).append(number)
    for _ in range(PROCESSES):
        found: dict[int, Instructions] = {}
        for (kind, _), numbers in sharing.items():
            with target.counting(kind) as (session, path):
                for number in numbers:
                    progress("bench: instructions", done, total)
                    _count(session, target, subjects[number], batch, number)
                    done += 1
                marks = parse_marks(path.read_text(encoding="ascii"))
            for number in numbers:
                counts = median_counts(differences(marks, _first(number), INFERENCES))
                found[number] = Instructions(**counts)
        yield [found[number] for number in range(len(subjects))]
    progress("bench: instructions", total, total)


def _count(
    session: RunnerSession, target: Target, subject: _Subject, batch: Batch, number: int
) -> None:
    mode = target.modes(subject.artifact)[0]
    loaded: RemoteArtifact = send(session, subject.data, subject.artifact, mode)
    loaded.count(batch, first=_first(number), warmup=WARMUP, runs=INFERENCES)
    loaded.drop()


def _first(number: int) -> int:
    return number * (INFERENCES + 1)


def _counted(
    target: Target, artifact: Artifact, runs: Sequence[Instructions]
) -> ArtifactInstructions:
    totals = [run.all for run in runs]
    spread = (max(totals) - min(totals)) / min(totals)
    return ArtifactInstructions(
        artifact=artifact.name,
        runtime=runtime_name(artifact),
        mode=target.modes(artifact)[0],
        precision=artifact.precision,
        boundary=artifact.boundary,
        runs=tuple(runs),
        mean=_mean(runs),
        spread=spread,
        repeatable=spread <= SPREAD_LIMIT,
    )


def _mean(runs: Sequence[Instructions]) -> Instructions:
    return Instructions(
        **{name: round(sum(getattr(run, name) for run in runs) / len(runs)) for name in CLASSES}
    )


def _ratios(counted: Sequence[ArtifactInstructions]) -> Iterator[InstructionRatio]:
    for fp32 in counted:
        for int8 in counted:
            pair = (fp32.precision, int8.precision)
            if pair == ("fp32", "int8") and fp32.runtime == int8.runtime:
                yield InstructionRatio(
                    runtime=int8.runtime,
                    fp32=fp32.artifact,
                    int8=int8.artifact,
                    ratio=int8.mean.all / fp32.mean.all,
                )
