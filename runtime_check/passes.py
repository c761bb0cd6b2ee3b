"""One artifact in one mode over a stream of batches: run it, compare its boundary, keep top-1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.bundle import Bundle
from records.errors import ArtifactError
from records.manifest import Artifact, WireTensor
from records.parity import FloatParity, WireEquality
from runtime_check.availability import runnable_edges
from runtime_check.float_parity import FloatTally
from runtime_check.lsb import LsbTally, Reference
from runtime_check.ort import OrtRuntime, compared_modes, ort_mode
from runtime_check.runtime import LoadedArtifact, Runtime, runtime_for
from runtime_check.server_head import ServerHead
from runtime_check.targets.target import Target
from runtime_check.wire import bits, dequantize, sent_values, to_wire_near

Real = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Boundary:
    """What an INT8 artifact returned for one batch.

    ``q``: uint8 (N, …), the output itself or the steps nearest to it. ``real``: float32 (N, …) of
    a float boundary, None of a wire. ``exact``: q and the scale say all there is in ``real``.
    """

    q: Bytes
    real: Real | None
    exact: bool

    def values(self, wire: WireTensor) -> Real:
        """Return the boundary as real values, float32 (N, …)."""
        return dequantize(self.q, wire) if self.real is None else self.real


class Int8Pass:
    """An INT8 edge in one mode, compared with eager INT8 batch by batch."""

    def __init__(
        self,
        artifact: Artifact,
        runtime: Runtime,
        loaded: LoadedArtifact,
        wire: WireTensor,
        *,
        gated: bool = True,
    ) -> None:
        """Keep the loaded artifact; no image is seen yet."""
        self.artifact = artifact
        self.runtime = runtime
        self.loaded = loaded
        self.gated = gated
        self.tally = LsbTally()
        self._wire = wire
        self._top1: list[Classes] = []

    def compare(self, batch: Real, reference: Reference) -> Boundary:
        """Run one batch and add its difference from the reference.

        Args:
            batch: float32 (N, 3, S, S).
            reference: eager INT8's boundary of the same images.

        Raises:
            ArtifactError: the runtime failed, the output has not the manifest's shape, or a sent
                value does not fit the wire's bits.
        """
        output = self.loaded.run(batch)
        if output.shape != reference.q.shape:
            raise ArtifactError(
                f"{self.artifact.name} returned {output.shape}, eager INT8 {reference.q.shape}"
            )
        if self.artifact.boundary == "wire":
            q = sent_values(output, self._wire, self.artifact.name)
            self.tally.update(reference, q)
            return Boundary(q=q, real=None, exact=True)
        real = np.asarray(output, dtype=np.float32)
        near = to_wire_near(real, self._wire, reference.q, reference.real)
        self.tally.update(reference, near.q, near.off_grid, near.positions)
        return Boundary(q=near.q, real=real, exact=near.off_grid == 0)

    def classify(self, boundary: Boundary, head: ServerHead) -> None:
        """Keep the batch's top-1 classes through the server half."""
        if boundary.exact or boundary.real is None:
            self._top1.append(head.top1_of_wire(boundary.q, boundary.real))
        else:
            self._top1.append(head.top1_of_real(boundary.real))

    def top1(self) -> Classes:
        """Return the classes of all images so far, int64 (N,)."""
        return np.concatenate(self._top1)


class Fp32Pass:
    """The FP32 edge in one runtime."""

    def __init__(self, artifact: Artifact, runtime: Runtime, loaded: LoadedArtifact) -> None:
        """Keep the loaded artifact; no image is seen yet."""
        self.artifact = artifact
        self.runtime = runtime
        self.loaded = loaded
        self._top1: list[Classes] = []

    def run(self, batch: Real, head: ServerHead) -> Real:
        """Run one batch, keep its top-1 classes, and return its boundary, float32 (N, …).

        Raises:
            ArtifactError: the runtime failed, or a value is not finite.
        """
        real = np.asarray(self.loaded.run(batch), dtype=np.float32)
        if not np.isfinite(real).all():
            raise ArtifactError(f"{self.artifact.name} returned a value that is not finite")
        self._top1.append(head.top1_of_real(real))
        return real

    def top1(self) -> Classes:
        """Return the classes of all images so far, int64 (N,)."""
        return np.concatenate(self._top1)


class WireComparison:
    """A wire artifact against the float boundary of the same runtime and mode, bit for bit."""

    def __init__(self, wire_pass: Int8Pass, float_pass: Int8Pass, wire: WireTensor) -> None:
        """Keep the two; no image is seen yet."""
        self.wire_pass = wire_pass
        self.float_pass = float_pass
        self.first: tuple[int, Real, Real] | None = None
        self._wire = wire
        self._differing = 0
        self._images = 0

    def update(self, wire_side: Boundary, float_side: Boundary) -> None:
        """Add one batch of both artifacts' boundaries."""
        first = self._images
        self._images += len(wire_side.q)
        if float_side.exact and np.array_equal(wire_side.q, float_side.q):
            return
        sent, real = wire_side.values(self._wire), float_side.values(self._wire)
        differs = bits(sent) != bits(real)
        self._differing += int(np.count_nonzero(differs))
        if self.first is None and differs.any():
            row = int(np.argmax(differs.reshape(len(differs), -1).any(axis=1)))
            self.first = (first + row, sent[row].copy(), real[row].copy())

    def record(self) -> WireEquality:
        """Return the record of all batches so far."""
        return WireEquality(
            wire=self.wire_pass.artifact.name,
            float_boundary=self.float_pass.artifact.name,
            mode=self.wire_pass.loaded.mode,
            differing=self._differing,
            first_image=None if self.first is None else self.first[0],
        )


class Fp32Comparison:
    """The FP32 edge in one runtime against the FP32 edge in another."""

    def __init__(self, other: Fp32Pass, reference: Fp32Pass) -> None:
        """Keep the two; no image is seen yet."""
        self.other = other
        self.reference = reference
        self.tally = FloatTally()

    def record(self) -> FloatParity:
        """Return the record of all batches so far.

        Raises:
            ArtifactError: the reference is zero everywhere.
        """
        return FloatParity(
            artifact=self.other.artifact.name,
            reference=self.reference.artifact.name,
            mode=self.other.loaded.mode,
            parity_sqnr_db=self.tally.parity_sqnr_db(),
            max_abs=self.tally.max_abs,
        )


def int8_passes(bundle: Bundle, threads: int, target: Target | None = None) -> tuple[Int8Pass, ...]:
    """Load every INT8 edge of a bundle in every mode that ``check`` compares.

    Args:
        bundle: a verified bundle.
        threads: of every runtime.
        target: where to; artifacts that do not run there are left out. None: this process.

    Raises:
        ArtifactError: one does not load or does not return what the manifest says.
        UnsupportedHereError: its runtime is not installed here.
    """
    return tuple(
        Int8Pass(
            artifact,
            runtime,
            runtime.load(bundle, artifact, threads=threads),
            bundle.manifest.wire,
            gated=gated,
        )
        for artifact in runnable_edges(bundle, "int8", target)
        for runtime, gated in _runtimes(artifact, target)
    )


def fp32_passes(bundle: Bundle, threads: int, target: Target | None = None) -> tuple[Fp32Pass, ...]:
    """Load every FP32 edge of a bundle, ONNX Runtime's first: it is the others' reference.

    Args:
        bundle: a verified bundle.
        threads: of every runtime.
        target: where to; artifacts that do not run there are left out. None: this process.

    Raises:
        ArtifactError: there is none, or one does not load.
        UnsupportedHereError: its runtime is not installed here.
    """
    running = runnable_edges(bundle, "fp32", target)
    edges = sorted(running, key=lambda artifact: artifact.format != "onnx")
    if not edges:
        raise ArtifactError("the bundle has no FP32 edge to measure the accuracy drop against")
    passes = []
    for artifact in edges:
        runtime = runtime_for(artifact) if target is None else target.runtime(artifact)
        passes.append(Fp32Pass(artifact, runtime, runtime.load(bundle, artifact, threads=threads)))
    return tuple(passes)


def wire_comparisons(passes: Iterable[Int8Pass], wire: WireTensor) -> tuple[WireComparison, ...]:
    """Pair each wire artifact with the float boundary of its runtime and mode."""
    passes = tuple(passes)
    floats = {(p.runtime.name, p.loaded.mode): p for p in passes if p.artifact.boundary == "float"}
    return tuple(
        WireComparison(p, floats[p.runtime.name, p.loaded.mode], wire)
        for p in passes
        if p.artifact.boundary == "wire" and (p.runtime.name, p.loaded.mode) in floats
    )


def _runtimes(artifact: Artifact, target: Target | None) -> Iterator[tuple[Runtime, bool]]:
    if target is not None:
        for mode in target.modes(artifact):
            yield target.runtime(artifact, mode), True
        return
    if artifact.format != "onnx":
        yield runtime_for(artifact), True
        return
    gated = {ort_mode().mode, "optimizations-off"}
    for mode in compared_modes():
        yield OrtRuntime(mode), mode in gated
