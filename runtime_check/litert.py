"""LiteRT's interpreter with XNNPACK, its default: what a phone runs for a ``.tflite`` file."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from export.bundle import Bundle
from records.errors import ArtifactError
from records.manifest import Artifact
from records.parity import Mode
from runtime_check.native_stderr import without_remarks
from runtime_check.runtime import probe, require_input

_REMARKS = re.compile(rb"INFO: Created TensorFlow Lite XNNPACK delegate for CPU\.")


class LitertRuntime:
    """Interpreter of the installed LiteRT on the CPU."""

    @property
    def name(self) -> str:
        """Short name of the runtime."""
        return "litert"

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> LoadedInterpreter:
        """Load the artifact's verified bytes and probe it.

        Args:
            bundle: a verified bundle.
            artifact: one of format ``litert``.
            threads: threads inside an operator, ≥ 1.

        Raises:
            ArtifactError: LiteRT refuses the model, or the probe fails.
        """
        loaded = load_litert(bundle.read(artifact), artifact, threads=threads)
        probe(loaded, artifact)
        return loaded


def load_litert(data: bytes, artifact: Artifact, *, threads: int) -> LoadedInterpreter:
    """Load a model from the bytes of a ``.tflite`` file; it is not run.

    Raises:
        ArtifactError: LiteRT refuses the model.
    """
    try:
        with without_remarks(_REMARKS):
            interpreter = Interpreter(model_content=data, num_threads=threads)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"LiteRT cannot load {artifact.name}: {error}") from error
    return LoadedInterpreter(interpreter, artifact)


class LoadedInterpreter:
    """One loaded model; see `runtime_check.runtime.LoadedArtifact`."""

    def __init__(self, interpreter: Interpreter, artifact: Artifact) -> None:
        """Keep the model and where its ends are."""
        self._interpreter = interpreter
        self._artifact = artifact
        self._input = interpreter.get_input_details()[0]["index"]
        self._output = interpreter.get_output_details()[0]["index"]
        self._batch = 1

    @property
    def mode(self) -> Mode:
        """The kernels that it runs with."""
        return "xnnpack"

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run float32 (N, *input.shape) and return (N, *output.shape).

        Raises:
            ArtifactError: the batch has another shape or dtype, or LiteRT failed.
        """
        require_input(batch, self._artifact)
        try:
            if len(batch) != self._batch:
                shape = (len(batch), *self._artifact.input.shape)
                self._interpreter.resize_tensor_input(self._input, shape)
                self._interpreter.allocate_tensors()
                self._batch = len(batch)
            self._interpreter.set_tensor(self._input, batch)
            self._interpreter.invoke()
            output: npt.NDArray[Any] = self._interpreter.get_tensor(self._output)
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"{self._artifact.name} failed in LiteRT: {error}") from error
        return output
