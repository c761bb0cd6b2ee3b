"""The TorchScript Lite interpreter under qnnpack: what a phone runs for a ``.ptl`` file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.jit.mobile import LiteScriptModule, _load_for_lite_interpreter

from export.bundle import Bundle
from records.errors import ArtifactError
from records.manifest import Artifact
from records.parity import Mode
from runtime_check.runtime import probe, require_input
from runtime_check.torch_scope import torch_scope


class LiteRuntime:
    """Lite interpreter of the installed torch, engine qnnpack."""

    @property
    def name(self) -> str:
        """Short name of the runtime."""
        return "lite"

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> LoadedLite:
        """Load the artifact's verified bytes and probe it.

        Args:
            bundle: a verified bundle.
            artifact: one of format ``torchscript-lite``.
            threads: torch's threads while it runs, ≥ 1.

        Raises:
            ArtifactError: the interpreter refuses the program, or the probe fails.
        """
        loaded = load_lite(bundle.read(artifact), artifact, threads=threads)
        probe(loaded, artifact)
        return loaded


def load_lite(data: bytes, artifact: Artifact, *, threads: int) -> LoadedLite:
    """Load a program from the bytes of a ``.ptl`` file; it is not run.

    Args:
        data: the whole file.
        artifact: names the program in errors.
        threads: torch's threads while it runs, ≥ 1.

    Raises:
        ArtifactError: the interpreter refuses the program.
    """
    try:
        with torch_scope(threads):
            module = _load_for_lite_interpreter(io.BytesIO(data))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ArtifactError(
            f"the Lite interpreter cannot load {artifact.name}: {first_line(error)}"
        ) from error
    return LoadedLite(module, artifact, threads)


class LoadedLite:
    """One loaded program; see `runtime_check.runtime.LoadedArtifact`."""

    def __init__(self, module: LiteScriptModule, artifact: Artifact, threads: int) -> None:
        """Keep the program and the threads it runs with."""
        self._module = module
        self._artifact = artifact
        self._threads = threads

    @property
    def mode(self) -> Mode:
        """The engine that it runs under."""
        return "qnnpack"

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run float32 (N, *input.shape) and return (N, *output.shape).

        Raises:
            ArtifactError: the batch has another shape or dtype, or the interpreter failed.
        """
        require_input(batch, self._artifact)
        try:
            with torch_scope(self._threads):
                output = self._module(torch.from_numpy(batch))
        except RuntimeError as error:
            raise ArtifactError(
                f"{self._artifact.name} failed in the Lite interpreter: {first_line(error)}"
            ) from error
        return as_array(output, self._artifact.name)


def as_array(output: object, name: str) -> npt.NDArray[Any]:
    """Return a program's result as an array: (N, *boundary), float32 or uint8.

    Raises:
        ArtifactError: the result is not one plain tensor.
    """
    if not isinstance(output, torch.Tensor) or output.is_quantized:
        raise ArtifactError(f"{name} did not return one plain tensor")
    array: npt.NDArray[Any] = output.contiguous().numpy()
    return array


def first_line(error: Exception) -> str:
    """Return the first line of torch's message; the rest is a C++ stack trace."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
