"""What an artifact sends for a set of images, in its own runtime, cached by content."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attack.cache import TensorCache
from baseline.images import ImageSet
from baseline.preprocessing import preprocess
from export.bundle import Bundle
from records.attack import Place
from records.errors import ArtifactError, UnsupportedHereError
from records.hashing import sha256_array
from records.manifest import Artifact, Precision, Preprocessing, WireTensor
from records.progress import Progress, silent
from runtime_check.availability import why_not_here
from runtime_check.eager import GRAPH, TENSORS
from runtime_check.machine import installed_version
from runtime_check.runtime import LoadedArtifact, Runtime, boundary_features, runtime_for
from runtime_check.targets.target import Target as Device
from runtime_check.wire import dequantize, to_wire

#: The eager reference's name in records; its files are ``eager_int8_graph`` and ``…_tensors``.
EAGER = "eager_int8"
_BATCH = 250
_CACHE_KIND = "features/1"
#: Runtime → distribution whose version may change its outputs; torch's for the others.
_PACKAGES = {
    "ort": "onnxruntime",
    "ort-mobile": "onnxruntime",
    "executorch": "executorch",
    "litert": "ai-edge-litert",
}


@dataclass(frozen=True)
class FeatureTable:
    """Boundary features of N images; uint8 when every value lies on the wire's grid.

    Attributes:
        values: uint8 or float32 (N, *boundary).
        wire: scale and zero point of uint8 values, None for float32.
        sha256: over what the values mean, so a float and a wire artifact that send the same have
            the same hash.
    """

    values: NDArray[Any]
    wire: WireTensor | None
    sha256: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.values)

    @property
    def boundary(self) -> tuple[int, ...]:
        """Shape of one image's features."""
        return tuple(self.values.shape[1:])

    def first(self, count: int) -> FeatureTable:
        """Return the features of the first ``count`` images, with a hash of their own."""
        values = self.values[:count]
        if len(values) == len(self):
            return self
        return float_table(values) if self.wire is None else wire_table(values, self.wire)

    def real(self, index: slice | NDArray[np.intp]) -> Tensor:
        """Return float32 features (M, *boundary) at an index; wire values are dequantized."""
        chosen = self.values[index]
        real = chosen if self.wire is None else dequantize(chosen, self.wire)
        return torch.from_numpy(np.ascontiguousarray(real, dtype=np.float32))


@dataclass(frozen=True)
class Target:
    """One artifact as the attacker meets it: its outputs for attacker and victim images.

    ``runtime`` and ``mode`` are those that the victims' images went through, ``trained_on`` where
    the attacker's images did.
    """

    name: str
    precision: Precision
    runtime: str
    mode: str
    boundary: Literal["float", "wire"]
    attacker: FeatureTable
    victim: FeatureTable
    trained_on: Place = "host"

    def on_first(self, count: int) -> Target:
        """Return the same target with its first ``count`` victims only."""
        return dataclasses.replace(self, victim=self.victim.first(count))

    @property
    def sha256(self) -> str:
        """Hash of all outputs: two targets with the same hash leak exactly the same."""
        return sha256_array(
            np.frombuffer((self.attacker.sha256 + self.victim.sha256).encode(), np.uint8)
        )


def float_table(values: NDArray[np.float32]) -> FeatureTable:
    """Return a table of real-valued features, float32 (N, *boundary)."""
    return FeatureTable(values=values, wire=None, sha256=sha256_array(values))


def wire_table(values: NDArray[np.uint8], wire: WireTensor) -> FeatureTable:
    """Return a table of uint8 (N, *boundary) on the grid of ``wire``."""
    grid = np.array([wire.scale, wire.zero_point], dtype=np.float64)
    return FeatureTable(values=values, wire=wire, sha256=sha256_array(values, grid))


def target_of(
    bundle: Bundle,
    artifact: Artifact,
    attacker: ImageSet,
    victim: ImageSet,
    cache: TensorCache,
    *,
    threads: int = 1,
    progress: Progress = silent,
    device: Device | None = None,
) -> Target:
    """Run one artifact of a bundle over both image sets, or read what it sent from the cache.

    On a device the victims' images go through it, where it runs the artifact. The attacker's go
    through the host, which is so much faster, unless the host does not run it rightly.

    Args:
        bundle: a verified bundle.
        artifact: an edge, or the eager reference's graph.
        attacker: the attacker's images.
        victim: the victims.
        cache: where the outputs are kept.
        threads: threads of the runtime.
        progress: called once a batch.
        device: where the victims' images go through; None for this process.

    Raises:
        ArtifactError: the artifact does not load or run, or sends a value that is not finite.
        UnsupportedHereError: the artifact runs neither here nor on the device.
    """
    name = EAGER if artifact.name == GRAPH else artifact.name
    trained_on, sent_on = _senders(bundle, artifact, threads, device)
    tables = []
    for images, sender in ((attacker, trained_on), (victim, sent_on)):
        cause = _cause(bundle, artifact, images, sender)
        stored = _stored(cache, cause, bundle.manifest.wire)
        if stored is None:
            stored = _run(sender.loaded, artifact, bundle, images, name, progress)
            cache.put(cause, {"values": stored.values}, {})
        tables.append(stored)
    return Target(
        name=name,
        precision=artifact.precision,
        runtime=sent_on.runtime.name,
        mode=sent_on.loaded.mode,
        boundary="wire" if artifact.boundary == "wire" else "float",
        trained_on="host" if trained_on.device is None else "target",
        attacker=tables[0],
        victim=tables[1],
    )


@dataclass(frozen=True)
class _Sender:
    """Where an artifact runs; ``device`` is None for this process."""

    runtime: Runtime
    loaded: LoadedArtifact
    device: Device | None


def _senders(
    bundle: Bundle, artifact: Artifact, threads: int, device: Device | None
) -> tuple[_Sender, _Sender]:
    """Return where the attacker's images go through, and where the victims' do."""
    here = there = None
    reason = why_not_here(artifact)
    if reason is None:
        runtime = runtime_for(artifact)
        here = _Sender(runtime, runtime.load(bundle, artifact, threads=threads), None)
    if device is not None and device.missing(artifact) is None:
        runtime = device.runtime(artifact)
        there = _Sender(runtime, runtime.load(bundle, artifact, threads=threads), device)
    trained_on, sent_on = here or there, there or here
    if trained_on is None or sent_on is None:
        raise UnsupportedHereError(f"{artifact.name}: {reason}")
    return trained_on, sent_on


def pass_through(images: ImageSet, spec: Preprocessing) -> FeatureTable:
    """Return the features of an edge that hides nothing: its own preprocessed input."""
    return float_table(preprocess(images.images, spec))


def _cause(bundle: Bundle, artifact: Artifact, images: ImageSet, sender: _Sender) -> dict[str, Any]:
    files = [artifact.sha256]
    if artifact.name == GRAPH:
        files.append(bundle.artifact(TENSORS).sha256)
    runtime = sender.runtime.name
    package = _PACKAGES.get(runtime, "torch")
    device = {} if sender.device is None else {"device": sender.device.record}
    return device | {
        "kind": _CACHE_KIND,
        "files": files,
        "images": sha256_array(images.images),
        "preprocessing": bundle.manifest.preprocessing,
        "wire": bundle.manifest.wire,
        "runtime": [runtime, sender.loaded.mode, package, installed_version(package)],
    }


def _stored(cache: TensorCache, cause: dict[str, Any], wire: WireTensor) -> FeatureTable | None:
    entry = cache.get(cause)
    if entry is None:
        return None
    values = entry[0]["values"]
    return wire_table(values, wire) if values.dtype == np.uint8 else float_table(values)


def _run(
    loaded: LoadedArtifact,
    artifact: Artifact,
    bundle: Bundle,
    images: ImageSet,
    name: str,
    progress: Progress,
) -> FeatureTable:
    wire = bundle.manifest.wire
    parts: list[FeatureTable] = []
    total = -(-len(images) // _BATCH)
    for step, start in enumerate(range(0, len(images), _BATCH)):
        chunk = images.images[start : start + _BATCH]
        batch = preprocess(chunk, bundle.manifest.preprocessing)
        output = boundary_features(loaded, artifact, wire, batch)
        if not np.isfinite(output).all():
            raise ArtifactError(f"{artifact.name} sent a value that is not finite")
        parts.append(_packed(output, artifact, wire))
        progress(f"features of {name}", step + 1, total)
    if all(part.wire is not None for part in parts):
        return wire_table(np.concatenate([part.values for part in parts]), wire)
    return float_table(np.concatenate([part.real(slice(None)).numpy() for part in parts]))


def _packed(output: NDArray[np.float32], artifact: Artifact, wire: WireTensor) -> FeatureTable:
    """Keep INT8 values as the uint8 that they stand for, when every one is on the wire's grid."""
    if artifact.precision == "int8":
        q, off_grid = to_wire(output, wire)
        if off_grid == 0:
            return FeatureTable(values=q, wire=wire, sha256="")
    return FeatureTable(values=output, wire=None, sha256="")
