"""Artifacts of a bundle through a runner: the runtime protocol over a `RunnerSession`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.bundle import Bundle
from records.errors import ArtifactError
from records.manifest import Artifact
from records.parity import Mode
from runtime_check.runtime import RUNTIME_OF, probe, require_input
from runtime_check.targets.session import RunnerSession

_MODES: dict[str, Mode] = {
    "onnx": "default",
    "ort": "default",
    "torchscript-lite": "qnnpack",
    "executorch": "xnnpack",
    "litert": "xnnpack",
}


def remote_modes(artifact: Artifact) -> tuple[Mode, ...]:
    """Return the modes that ``check`` runs an artifact in on ARM, that of its shipping first.

    ``precise`` is missing: it changes x86 kernels only.
    """
    shipping = _MODES[artifact.format]
    if artifact.format == "onnx" and artifact.precision == "int8":
        return (shipping, "optimizations-off")
    return (shipping,)


@dataclass(frozen=True)
class RemoteRuntime:
    """A runtime at the other end of a session, in one mode."""

    session: RunnerSession
    format: str
    mode: Mode

    @property
    def name(self) -> str:
        """Short name of the runtime, of `records.parity.RuntimeName`."""
        return RUNTIME_OF[self.format]

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> RemoteArtifact:
        """Send the artifact's verified bytes, load them there and probe them.

        Args:
            bundle: a verified bundle.
            artifact: one of this runtime's format.
            threads: threads inside an operator, ≥ 1.

        Raises:
            ArtifactError: the runtime there refuses it, or the probe fails.
        """
        loaded = send(self.session, bundle.read(artifact), artifact, self.mode, threads)
        probe(loaded, artifact)
        return loaded


def send(
    session: RunnerSession, data: bytes, artifact: Artifact, mode: Mode, threads: int = 1
) -> RemoteArtifact:
    """Send an artifact's verified bytes and load them there; it is not run.

    Args:
        session: where to.
        data: the whole file.
        artifact: says what it is.
        mode: of the runtime.
        threads: threads inside an operator, ≥ 1.

    Raises:
        ArtifactError: the runtime there refuses it.
    """
    loaded = RemoteArtifact(session, artifact, mode)
    request = {
        "do": "load",
        "id": loaded.id,
        "format": artifact.format,
        "mode": mode,
        "threads": threads,
        "input": artifact.input.name,
        "output": artifact.output.name,
    }
    session.ask(request, data)
    return loaded


class RemoteArtifact:
    """One artifact loaded by a runner; see `runtime_check.runtime.LoadedArtifact`."""

    def __init__(self, session: RunnerSession, artifact: Artifact, mode: Mode) -> None:
        """Keep the session and what the manifest says of the artifact."""
        self._session = session
        self._artifact = artifact
        self._mode = mode

    @property
    def id(self) -> str:
        """Its name in requests."""
        return f"{self._artifact.name}/{self._mode}"

    @property
    def mode(self) -> Mode:
        """The mode that it was loaded in."""
        return self._mode

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run float32 (N, *input.shape) there and return (N, *output.shape).

        Raises:
            ArtifactError: the batch has another shape or dtype, the runtime failed, or its answer
                is not what the manifest says.
        """
        require_input(batch, self._artifact)
        spec = self._artifact.output
        shape, dtype = (len(batch), *spec.shape), np.dtype(spec.dtype)
        size = math.prod(shape) * dtype.itemsize
        request = {"do": "run", "id": self.id, "shape": list(batch.shape)}
        data = np.ascontiguousarray(batch).tobytes()
        answer, output = self._session.ask(request, data, largest=size)
        if (answer.dtype, answer.shape, len(output)) != (spec.dtype, shape, size):
            raise ArtifactError(
                f"{self._artifact.name} returned {answer.dtype}{answer.shape}, where the manifest "
                f"says {spec.dtype}{shape}"
            )
        return np.frombuffer(output, dtype).reshape(shape).copy()

    def count(self, batch: npt.NDArray[np.float32], *, first: int, warmup: int, runs: int) -> None:
        """Run one batch several times with a mark for the instruction counter around each.

        Args:
            batch: float32 (N, *input.shape).
            first: number of the mark before the first counted run; one more after each.
            warmup: runs before it that are not counted.
            runs: counted runs, ≥ 1.

        Raises:
            ArtifactError: the batch has another shape or dtype, or the runtime failed.
        """
        require_input(batch, self._artifact)
        request = {
            "do": "count",
            "id": self.id,
            "shape": list(batch.shape),
            "first": first,
            "warmup": warmup,
            "inferences": runs,
        }
        self._session.ask(request, np.ascontiguousarray(batch).tobytes())

    def drop(self) -> None:
        """Let the runner forget it, and give its memory back.

        Raises:
            ArtifactError: it is not loaded there.
        """
        self._session.ask({"do": "drop", "id": self.id})
