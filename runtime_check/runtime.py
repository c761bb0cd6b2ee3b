"""The runtime protocol: load an artifact of a verified bundle, run batches, get its boundary.

Imports neither torch nor onnxruntime; an adapter is imported when an artifact needs it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.bundle import Bundle
from records.errors import ArtifactError, UnsupportedHereError
from records.manifest import Artifact, WireTensor
from records.parity import Mode, RuntimeName
from runtime_check.availability import why_not_here
from runtime_check.wire import dequantize, sent_values

__all__ = [
    "RUNTIME_OF",
    "LoadedArtifact",
    "Runtime",
    "boundary_features",
    "dequantize",
    "probe",
    "require_input",
    "runtime_for",
]

Batch = npt.NDArray[np.float32]

#: Format of a shipped artifact → name of the runtime that it is for.
RUNTIME_OF: dict[str, RuntimeName] = {
    "onnx": "ort",
    "ort": "ort-mobile",
    "torchscript-lite": "lite",
    "executorch": "executorch",
    "litert": "litert",
}


class LoadedArtifact(Protocol):
    """An artifact ready to run; ``mode`` says how its runtime computes."""

    @property
    def mode(self) -> Mode:
        """The mode that this artifact was loaded in."""

    def run(self, batch: Batch) -> npt.NDArray[Any]:
        """Run one batch.

        Args:
            batch: float32 (N, *input.shape), C-contiguous; N is free.

        Returns:
            float32 or uint8 (N, *output.shape), as the manifest says; a new array.

        Raises:
            ArtifactError: the runtime refused the batch or failed.
        """


class Runtime(Protocol):
    """A way to run one format of artifact."""

    @property
    def name(self) -> str:
        """Short name: one of ``records.parity.RuntimeName``, or ``eager``."""

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> LoadedArtifact:
        """Load one artifact of a verified bundle and probe it with a batch of two images.

        Args:
            bundle: as `export.bundle.load_bundle` returned it.
            artifact: one of its artifacts.
            threads: threads inside an operator, ≥ 1.

        Raises:
            ArtifactError: it does not load, or the probe's output is not what the manifest says.
            UnsupportedHereError: the runtime is not installed here.
        """


def runtime_for(artifact: Artifact) -> Runtime:
    """Return the runtime that an artifact of this format is shipped to.

    Raises:
        ArtifactError: nothing runs this format (the reference's tensors are no program).
        UnsupportedHereError: a package that the format needs is not installed.
    """
    if artifact.format == "onnx":
        from runtime_check.ort import OrtRuntime

        return OrtRuntime()
    if artifact.format == "ort":
        from runtime_check.ort import OrtMobileRuntime

        return OrtMobileRuntime()
    if artifact.format == "safetensors":
        raise ArtifactError(f"{artifact.name} holds tensors only; run eager_int8_graph instead")
    reason = why_not_here(artifact)
    if reason is not None:
        raise UnsupportedHereError(f"{artifact.name}: {reason}")
    if artifact.format == "litert":
        from runtime_check.litert import LitertRuntime

        return LitertRuntime()
    return _torch_runtime(artifact)


def _torch_runtime(artifact: Artifact) -> Runtime:
    try:
        if artifact.format == "torchscript-lite":
            from runtime_check.lite import LiteRuntime

            return LiteRuntime()
        if artifact.format == "executorch":
            from runtime_check.executorch import ExecutorchRuntime

            return ExecutorchRuntime()
        from runtime_check.eager import EagerRuntime

        return EagerRuntime()
    except ModuleNotFoundError as error:
        raise UnsupportedHereError(
            f"{artifact.name} needs {error.name}, not installed here; run: pip install '.[export]'"
        ) from error


def boundary_features(
    loaded: LoadedArtifact, artifact: Artifact, wire: WireTensor, batch: Batch
) -> Batch:
    """Run an edge artifact and return its boundary as real values, whatever it ends with.

    Args:
        loaded: ``artifact`` loaded by its runtime.
        artifact: an edge; its ``boundary`` says whether the output is uint8.
        wire: scale, zero point and bits from the manifest.
        batch: float32 (N, 3, S, S).

    Returns:
        float32 (N, *boundary.shape).

    Raises:
        ArtifactError: the runtime refused the batch or failed, or a sent value does not fit the
            wire's bits.
    """
    output = loaded.run(batch)
    if artifact.boundary == "wire":
        return dequantize(sent_values(output, wire, artifact.name), wire)
    real: Batch = output
    return real


def require_input(batch: Batch, artifact: Artifact) -> None:
    """Refuse a batch that is not what the manifest says the artifact takes.

    torch's qnnpack kernels do not look at the number of channels: they would read beyond the batch.

    Raises:
        ArtifactError: the batch is not float32 (N, *input.shape).
    """
    if batch.dtype != np.float32 or batch.shape[1:] != artifact.input.shape:
        raise ArtifactError(
            f"{artifact.name} takes float32 (N, {', '.join(map(str, artifact.input.shape))}), "
            f"not {batch.dtype} {batch.shape}"
        )


def probe(loaded: LoadedArtifact, artifact: Artifact) -> None:
    """Run one black and one patterned image through a newly loaded artifact and check the output.

    Raises:
        ArtifactError: dtype or shape is not the manifest's, or a value is not finite.
    """
    shape = artifact.input.shape
    pattern = np.linspace(-2.0, 2.0, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    output = loaded.run(np.stack((np.zeros(shape, np.float32), pattern)))
    expected = (2, *artifact.output.shape)
    if output.shape != expected or output.dtype != np.dtype(artifact.output.dtype):
        raise ArtifactError(
            f"{artifact.name} returned {output.dtype}{output.shape} for a batch of two where the "
            f"manifest says {artifact.output.dtype}{expected}"
        )
    if not np.isfinite(output).all():
        raise ArtifactError(f"{artifact.name} returned a value that is not finite")
