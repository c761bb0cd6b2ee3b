"""What eager INT8 and the host's runtimes give for a kit's victims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from baseline.preprocessing import preprocess
from benchmarks.device.parity import BATCH, EAGER
from export.bundle import Bundle
from records.errors import ArtifactError, UnsupportedHereError
from records.hashing import sha256_bytes
from records.kit import KitSample
from records.manifest import Artifact
from records.parity import Mode
from records.progress import Progress
from runtime_check.runtime import LoadedArtifact, runtime_for
from runtime_check.victims import Victims, set_sha256
from runtime_check.wire import to_wire

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Expected:
    """The arrays of a kit by name, any shape, and the modes in which the host ran its edges."""

    sample: KitSample
    arrays: dict[str, Array]
    modes: dict[str, Mode]


def expected_outputs(bundle: Bundle, victims: Victims, progress: Progress) -> Expected:
    """Run the victims through eager INT8 and, on this host, through every edge.

    An edge whose runtime is not installed here has no host output; an FP32 one is then held
    against the FP32 ONNX edge.

    Args:
        bundle: a verified bundle.
        victims: at least one image.
        progress: told about each artifact.

    Raises:
        ArtifactError: an artifact does not load or run, or eager INT8 leaves the wire's grid.
    """
    from runtime_check.eager import GRAPH, EagerRuntime

    batch = preprocess(victims.images.images, bundle.manifest.preprocessing)
    edges = sorted(bundle.edges(), key=lambda artifact: artifact.format != "onnx")
    eager = EagerRuntime().load(bundle, bundle.artifact(GRAPH))
    arrays: dict[str, Array] = {"images": victims.images.images}
    arrays[EAGER], off_grid = to_wire(_outputs(eager, batch), bundle.manifest.wire)
    if off_grid:
        raise ArtifactError(
            f"{off_grid} values of {GRAPH} are not on the manifest's wire grid; export again"
        )
    modes: dict[str, Mode] = {}
    for number, artifact in enumerate(edges):
        try:
            loaded = runtime_for(artifact).load(bundle, artifact)
        except UnsupportedHereError:
            _take_another(artifact, edges, arrays)
        else:
            arrays[artifact.name] = _boundary(bundle, artifact, _outputs(loaded, batch))
            modes[artifact.name] = loaded.mode
        progress("kit: expected outputs", number + 1, len(edges))
    return Expected(_sample(victims, batch), arrays, modes)


def _take_another(artifact: Artifact, edges: list[Artifact], arrays: dict[str, Array]) -> None:
    if artifact.precision == "fp32":
        # The edges are sorted: ONNX comes first, and its runtime is part of the core install.
        first = next(one for one in edges if one.precision == "fp32")
        arrays[artifact.name] = arrays[first.name]


def _boundary(bundle: Bundle, artifact: Artifact, output: Array) -> Array:
    if artifact.precision == "fp32" or artifact.boundary == "wire":
        return output
    return to_wire(output, bundle.manifest.wire)[0]


def _outputs(loaded: LoadedArtifact, batch: npt.NDArray[np.float32]) -> Array:
    """Run float32 (N, …) in parts of the size that a device takes; return (N, …)."""
    return np.concatenate(
        [loaded.run(batch[start : start + BATCH]) for start in range(0, len(batch), BATCH)]
    )


def _sample(victims: Victims, batch: npt.NDArray[np.float32]) -> KitSample:
    return KitSample(
        source=victims.source,
        count=len(victims.images),
        first_of=victims.first_of,
        sha256=set_sha256(victims.images),
        input_sha256=sha256_bytes(np.ascontiguousarray(batch).tobytes()),
    )
