"""The check of a bundle: every edge artifact in its real runtime, on the same victims."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from baseline.images import ImageSet
from baseline.preprocessing import preprocess
from export.bundle import Bundle
from records.errors import ArtifactError, InputError, UnsupportedHereError
from records.parity import (
    Accuracy,
    ArtifactCheck,
    CheckRecord,
    FloatParity,
    Fusion,
    Gate,
    HostDifference,
    OperatorDifference,
    OrtMode,
    VictimRecord,
    WireEquality,
)
from records.progress import Progress, silent
from records.recipe import CheckRecipe
from records.target import SkippedArtifact
from runtime_check.accuracy import accuracy_of
from runtime_check.availability import runnable_edges, skipped_artifacts, why_not_here
from runtime_check.eager import GRAPH, EagerRuntime
from runtime_check.evidence import failed_arrays, lost_arrays, write_evidence
from runtime_check.gates import (
    XNNPACK,
    artifact_gates,
    fp32_gates,
    fusion_gates,
    target_gates,
    wire_gates,
)
from runtime_check.host_comparison import HostComparison, compared_with_host
from runtime_check.lsb import reference_batch
from runtime_check.machine import installed_version
from runtime_check.operator_parity import operator_differences
from runtime_check.ort import OrtRuntime, ort_mode
from runtime_check.ort_graph import quantized_convolutions
from runtime_check.passes import (
    Boundary,
    Fp32Comparison,
    Fp32Pass,
    Int8Pass,
    WireComparison,
    fp32_passes,
    int8_passes,
    wire_comparisons,
)
from runtime_check.runtime import RUNTIME_OF, LoadedArtifact
from runtime_check.server_head import ServerHead
from runtime_check.targets.target import Target
from runtime_check.victims import Victims, set_sha256
from runtime_check.wire import to_wire

SERVER = "server_fp32_onnx"
#: By so much the XNNPACK runtimes may be off without a remark.
_NEAR_LSB = 2
_VERSIONED = ("edgeveil", "numpy", "onnxruntime", "torch")
_VERSIONED_WITH = {"executorch": "executorch", "litert": "ai-edge-litert"}

Classes = npt.NDArray[np.int64]
Real = npt.NDArray[np.float32]


class _Check:
    """All artifacts of one bundle, loaded, and what they have shown so far."""

    def __init__(self, bundle: Bundle, threads: int, target: Target | None = None) -> None:
        self.bundle = bundle
        self.target = target
        self.wire = bundle.manifest.wire
        server = OrtRuntime("default").load(bundle, bundle.artifact(SERVER), threads=threads)
        self.head = ServerHead(server, self.wire)
        self.eager: LoadedArtifact = EagerRuntime().load(
            bundle, bundle.artifact(GRAPH), threads=threads
        )
        self.eager_top1: list[Classes] = []
        self.int8: tuple[Int8Pass, ...] = int8_passes(bundle, threads, target)
        self.fp32: tuple[Fp32Pass, ...] = fp32_passes(bundle, threads, target)
        self.wires: tuple[WireComparison, ...] = wire_comparisons(self.int8, self.wire)
        self.pairs = tuple(Fp32Comparison(other, self.fp32[0]) for other in self.fp32[1:])
        self.host: tuple[HostComparison, ...] = ()
        self.host_fp32: tuple[Fp32Comparison, ...] = ()
        if target is not None:
            self._add_host(threads)

    def _add_host(self, threads: int) -> None:
        """Load the same artifacts here too, to be compared with those of the target."""
        there = {one.artifact.name: one for one in self.fp32}
        self.host = compared_with_host(self.int8, int8_passes(self.bundle, threads), self.wire)
        self.host_fp32 = tuple(
            Fp32Comparison(there[here.artifact.name], here)
            for here in fp32_passes(self.bundle, threads)
            if here.artifact.name in there
        )

    def add(self, images: npt.NDArray[np.uint8]) -> None:
        """Run one batch of images, uint8 (N, H, W, 3), through everything."""
        self.head.begin_batch()
        batch = preprocess(images, self.bundle.manifest.preprocessing)
        self._add_int8(batch)
        self._add_fp32(batch)

    def _add_int8(self, batch: Real) -> None:
        real = self.eager.run(batch)
        q, off_grid = to_wire(real, self.wire)
        if off_grid:
            raise ArtifactError(
                f"{off_grid} values of {GRAPH} are not on the manifest's wire grid; export again"
            )
        reference = reference_batch(q, self.wire, real)
        self.eager_top1.append(self.head.top1_of_wire(q, real))
        seen: dict[int, Boundary] = {}
        for one in self.int8:
            seen[id(one)] = one.compare(batch, reference)
            one.classify(seen[id(one)], self.head)
        for host in self.host:
            host.update(batch, reference, {id(one): seen[id(one)].q for one in self.int8})
        for pair in self.wires:
            pair.update(seen[id(pair.wire_pass)], seen[id(pair.float_pass)])

    def _add_fp32(self, batch: Real) -> None:
        boundaries = {id(one): one.run(batch, self.head) for one in self.fp32}
        for pair in self.host_fp32:
            boundaries[id(pair.reference)] = pair.reference.run(batch, self.head)
        for pair in (*self.pairs, *self.host_fp32):
            pair.tally.update(boundaries[id(pair.reference)], boundaries[id(pair.other)])

    def rows(self, labels: Classes, recipe: CheckRecipe) -> Iterator[ArtifactCheck]:
        """Yield the record of every artifact in every mode, FP32 first, then eager INT8."""
        fp32, eager = self.fp32[0].top1(), np.concatenate(self.eager_top1)

        def accuracy(top1: Classes, *, baseline: bool, agree: bool) -> Accuracy:
            return accuracy_of(
                top1,
                labels,
                fp32=None if baseline else fp32,
                eager=eager if agree else None,
                recipe=recipe,
            )

        for number, exact in enumerate(self.fp32):
            top1 = accuracy(exact.top1(), baseline=number == 0, agree=False)
            yield _row(exact, top1, gated=True)
        yield ArtifactCheck(
            artifact=GRAPH,
            runtime="eager",
            mode=self.eager.mode,
            precision="int8",
            boundary="float",
            reference=True,
            gated=False,
            accuracy=accuracy(eager, baseline=False, agree=False),
        )
        for one in self.int8:
            yield _row(one, accuracy(one.top1(), baseline=False, agree=True), gated=one.gated)


def check_bundle(
    bundle: Bundle,
    victims: Victims | ImageSet,
    *,
    progress: Progress = silent,
    threads: int = 1,
    evidence: Path | None = None,
    replace: bool = False,
    target: Target | None = None,
) -> CheckRecord:
    """Run every edge artifact in its runtime against eager INT8, and judge it by the recipe.

    On a target the artifacts run there; eager INT8, the server half and, for comparison, the same
    artifacts run here. What does not run there is listed as skipped.

    Images stream through all artifacts in batches of ``recipe.check.batch_size``, preprocessed
    once: memory does not grow with their number, but for one class per image and artifact.

    Args:
        bundle: a verified bundle; the limits are those of its recipe.
        victims: at least one image; a bare image set is taken to be the manifest's source.
        progress: called once a batch.
        threads: threads of every runtime; FP32 results may depend on it in the last bit.
        evidence: where to write the images that show a failure (npz); None writes nothing.
        replace: allow ``evidence`` to be replaced.
        target: where the artifacts run; None for this process.

    Returns:
        The record. A failed gate raises nothing here: ``record.passed`` is false.

    Raises:
        InputError: no image.
        DataError: the images have not the size that the bundle's preprocessing expects.
        ArtifactError: an artifact does not load, run, or return what the manifest says.
        OverwriteError: ``evidence`` exists and ``replace`` is false.
        UnsupportedHereError: a runtime is not installed here, or no INT8 edge runs on the target.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    if isinstance(victims, ImageSet):
        victims = Victims(victims, bundle.manifest.data.source)
    recipe, images = bundle.manifest.recipe.check, victims.images
    if len(images) == 0:
        raise InputError("the check needs at least one image")
    skipped = _skipped(bundle, target)
    check = _Check(bundle, threads, target)
    _run(check, images.images, recipe.batch_size, progress)
    found = _judge(check, images.labels, recipe)
    kept = None
    if evidence is not None:
        kept = write_evidence(evidence, _evidence(check, found, images), replace=replace)
    return CheckRecord(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        recipe=recipe,
        victims=_victim_record(victims, bundle),
        ort=_ort_mode(target),
        threads=threads,
        versions=_versions(bundle),
        artifacts=found.rows,
        fp32_parity=found.fp32,
        wire_equality=found.wires,
        fusion=found.fusion,
        gates=found.gates,
        passed=all(gate.passed for gate in found.gates),
        evidence=kept,
        target=None if target is None else target.record,
        host=found.host,
        host_fp32=found.host_fp32,
        skipped=skipped,
        operators=_operators(check, found, images, progress),
        started_at=started,
        seconds=time.perf_counter() - clock,
    )


def _versions(bundle: Bundle) -> dict[str, str]:
    formats = sorted({artifact.format for artifact in bundle.edges()})
    names = (*_VERSIONED, *(_VERSIONED_WITH[f] for f in formats if f in _VERSIONED_WITH))
    return {name: installed_version(name) or "none" for name in names}


@dataclass(frozen=True)
class _Findings:
    rows: tuple[ArtifactCheck, ...]
    fp32: tuple[FloatParity, ...]
    wires: tuple[WireEquality, ...]
    fusion: tuple[Fusion, ...]
    host: tuple[HostDifference, ...]
    host_fp32: tuple[FloatParity, ...]
    gates: tuple[Gate, ...]


def _run(check: _Check, images: npt.NDArray[np.uint8], batch_size: int, progress: Progress) -> None:
    progress("check", 0, len(images))
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        check.add(batch)
        progress("check", start + len(batch), len(images))


def _judge(check: _Check, labels: Classes, recipe: CheckRecipe) -> _Findings:
    rows = tuple(check.rows(labels, recipe))
    fp32 = tuple(pair.record() for pair in check.pairs)
    wires = tuple(pair.record() for pair in check.wires)
    fusion = tuple(_fusion(check.bundle))
    host_fp32 = tuple(
        msgspec.structs.replace(pair.record(), reference=f"{pair.reference.artifact.name} (host)")
        for pair in check.host_fp32
    )
    host = tuple(one.record() for one in check.host)
    gated = {(row.artifact, row.mode) for row in rows if row.gated}
    gates = (
        *(gate for row in rows for gate in artifact_gates(row, recipe, check.wire.bits)),
        *wire_gates(wires, gated),
        *fusion_gates(fusion, _ort_mode(check.target).mode),
        # Of the others the host's is no second reference: they are held against the target's ONNX.
        *fp32_gates((*fp32, *host_fp32[:1]), recipe),
        *(() if check.target is None else target_gates(rows, host, _same_bits(check), recipe)),
    )
    return _Findings(
        rows=rows,
        fp32=fp32,
        wires=wires,
        fusion=fusion,
        host=host,
        host_fp32=host_fp32,
        gates=gates,
    )


def _same_bits(check: _Check) -> frozenset[str]:
    """Return the INT8 artifacts that compute the same integers on every CPU.

    What a recipe leaves in float rounds otherwise where products and sums are fused.
    """
    if check.bundle.manifest.float_nodes:
        return frozenset()
    formats = {"torchscript-lite", "executorch"}
    return frozenset(a.name for a in check.bundle.edges("int8") if a.format in formats)


def _ort_mode(target: Target | None) -> OrtMode:
    if target is None:
        return ort_mode()
    reason = f"{target.record.name} is not x86: its INT8 kernels do not saturate"
    return OrtMode(mode="default", has_vnni=False, reason=reason)


def _skipped(bundle: Bundle, target: Target | None) -> tuple[SkippedArtifact, ...]:
    skipped = skipped_artifacts(bundle, target)
    if not runnable_edges(bundle, "int8", target):
        where = "here" if target is None else f"on {target.record.name}"
        raise UnsupportedHereError(
            f"no INT8 artifact runs {where}: " + "; ".join(sorted({s.reason for s in skipped}))
        )
    return skipped


def _fusion(bundle: Bundle) -> Iterator[Fusion]:
    meant = _float_convolutions(bundle)
    for artifact in bundle.edges("int8"):
        if artifact.format == "onnx":
            fusion = quantized_convolutions(bundle.path(artifact))
            yield Fusion(
                artifact=artifact.name,
                convolutions=fusion.total - meant,
                # A convolution that an optimization doubled, half of it in float, is not fused.
                fused=min(fusion.fused, fusion.total - len(fusion.float_left)),
                left_in_float=tuple(fusion.float_left),
            )


def _float_convolutions(bundle: Bundle) -> int:
    """Count the convolutions that the recipe left in float, in the eager INT8 graph."""
    graph = msgspec.json.decode(bundle.read(bundle.artifact(GRAPH)))
    return sum(module["kind"] == "conv2d" for module in graph["modules"].values())


def _operators(
    check: _Check, found: _Findings, images: ImageSet, progress: Progress
) -> tuple[OperatorDifference, ...]:
    """Name the operators behind values more than 2 LSB off, on the images that show the most.

    They are computed here, also for a target. ExecuTorch's programs of one operator take minutes,
    LiteRT's a second: ExecuTorch's are made only here, where it missed ``share_within_2_lsb``.
    """
    missed = {
        gate.artifact
        for gate in found.gates
        if gate.name == "share_within_2_lsb" and not gate.passed
    }
    differences: list[OperatorDifference] = []
    for runtime in XNNPACK:
        if runtime == "executorch" and check.target is not None:
            continue
        rows = (row for row in found.rows if row.runtime == runtime)
        row = next((row for row in rows if row.artifact in missed or _far_off(row)), None)
        if row is None or why_not_here(check.bundle.artifact(row.artifact)) is not None:
            continue
        if row.lsb is not None:
            # Where no value differs, any image tells as much.
            worst = [one.index for one in row.lsb.worst] or [0]
            batch = preprocess(images.images[worst], check.bundle.manifest.preprocessing)
            differences += operator_differences(check.bundle, runtime, batch, progress)
    return tuple(differences)


def _far_off(row: ArtifactCheck) -> bool:
    return row.runtime == "litert" and row.lsb is not None and row.lsb.max_lsb > _NEAR_LSB


def _evidence(
    check: _Check, found: _Findings, images: ImageSet
) -> dict[str, npt.NDArray[np.generic]]:
    right = check.fp32[0].top1() == images.labels
    lost = {
        (one.artifact.name, one.loaded.mode): right & (one.top1() != images.labels)
        for one in check.int8
    }
    pairs = (*check.pairs, *check.host_fp32[:1])
    arrays = failed_arrays(found.gates, images.images, check.int8, check.wires, pairs)
    return arrays | lost_arrays(found.gates, images.images, lost)


def _row(one: Int8Pass | Fp32Pass, accuracy: Accuracy, *, gated: bool) -> ArtifactCheck:
    artifact = one.artifact
    return ArtifactCheck(
        artifact=artifact.name,
        runtime=RUNTIME_OF[artifact.format],
        mode=one.loaded.mode,
        precision=artifact.precision,
        boundary="wire" if artifact.boundary == "wire" else "float",
        reference=False,
        gated=gated,
        accuracy=accuracy,
        lsb=one.tally.summary() if isinstance(one, Int8Pass) else None,
    )


def _victim_record(victims: Victims, bundle: Bundle) -> VictimRecord:
    digest = set_sha256(victims.images)
    return VictimRecord(
        source=victims.source,
        count=len(victims.images),
        sha256=digest,
        is_manifest_set=digest == bundle.manifest.data.victim.sha256,
        first_of=victims.first_of,
    )
