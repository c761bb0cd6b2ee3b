"""ExecuTorch's runtime with XNNPACK: what a phone runs for a ``.pte`` file."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from export.bundle import Bundle
from export.executorch_import import quiet_import
from records.errors import ArtifactError
from records.manifest import Artifact
from records.parity import Mode
from runtime_check.native_stderr import without_remarks
from runtime_check.runtime import probe, require_input

with quiet_import():
    from executorch.runtime import Method, Runtime

#: What it found out about the CPU, which Linux tells on ARM only, and that it did as it was told.
_REMARKS = re.compile(
    rb"\[(cpuinfo_utils|threadpool)\.cpp:\d+\] "
    rb"(Reading file|Failed to open midr file|CPU info and manual query|Resetting threadpool to) "
)


class ExecutorchRuntime:
    """Python runtime of the installed ExecuTorch; its threads are set for the whole process."""

    @property
    def name(self) -> str:
        """Short name of the runtime."""
        return "executorch"

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> LoadedProgram:
        """Load the artifact's verified bytes and probe it.

        Args:
            bundle: a verified bundle.
            artifact: one of format ``executorch``.
            threads: threads of XNNPACK in this process from now on, ≥ 1.

        Raises:
            ArtifactError: ExecuTorch refuses the program, or the probe fails.
        """
        loaded = load_executorch(bundle.read(artifact), artifact, threads=threads)
        probe(loaded, artifact)
        return loaded


def load_executorch(data: bytes, artifact: Artifact, *, threads: int) -> LoadedProgram:
    """Load a program from the bytes of a ``.pte`` file; it is not run.

    Raises:
        ArtifactError: ExecuTorch refuses the program.
    """
    _set_threads(threads)
    try:
        program = Runtime.get().load_program(data)
        method = program.load_method("forward")
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"ExecuTorch cannot load {artifact.name}: {error}") from error
    if method is None:
        raise ArtifactError(f"{artifact.name} has no method forward")
    return LoadedProgram(method, artifact, (program, data))


def _set_threads(threads: int) -> None:
    from executorch.extension.pybindings import portable_lib

    reset = getattr(portable_lib, "_unsafe_reset_threadpool", None)
    if reset is not None:
        with without_remarks(_REMARKS):
            reset(threads)


class LoadedProgram:
    """One loaded program; see `runtime_check.runtime.LoadedArtifact`."""

    def __init__(self, method: Method, artifact: Artifact, owners: tuple[object, ...]) -> None:
        """Keep the program's method, and what it reads its weights from.

        A method whose program is gone reads freed memory: seen in ExecuTorch 1.5.1.
        """
        self._method = method
        self._owners = owners
        self._artifact = artifact

    @property
    def mode(self) -> Mode:
        """The kernels that it runs with."""
        return "xnnpack"

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run float32 (N, *input.shape) and return (N, *output.shape), image by image.

        Raises:
            ArtifactError: the batch has another shape or dtype, or ExecuTorch failed.
        """
        require_input(batch, self._artifact)
        output = np.empty((len(batch), *self._artifact.output.shape), self._artifact.output.dtype)
        for row, image in enumerate(torch.from_numpy(batch)):
            try:
                (result,) = self._method.execute((image[None],))
            except (RuntimeError, ValueError) as error:
                name = self._artifact.name
                raise ArtifactError(f"{name} failed in ExecuTorch: {error}") from error
            found = result.numpy()
            if found.shape[1:] != output.shape[1:] or found.dtype != output.dtype:
                raise ArtifactError(
                    f"{self._artifact.name} returned {found.dtype}{found.shape}, not "
                    f"{output.dtype}(1, …)"
                )
            output[row] = found[0]
        return output
