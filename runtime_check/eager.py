"""Eager INT8: the converted FX model itself under qnnpack, the reference of the check."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import GraphModule

from export.bundle import Bundle
from export.fx_graph import load_graph
from records.errors import ArtifactError
from records.manifest import Artifact
from records.parity import Mode
from runtime_check.lite import as_array, first_line
from runtime_check.runtime import probe, require_input
from runtime_check.torch_scope import torch_scope

GRAPH = "eager_int8_graph"
TENSORS = "eager_int8_tensors"


class EagerRuntime:
    """torch in eager mode, engine qnnpack."""

    @property
    def name(self) -> str:
        """Short name of the runtime."""
        return "eager"

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> LoadedGraph:
        """Build the graph of ``eager_int8_graph`` with its tensors and probe it.

        Args:
            bundle: a verified bundle; its ``eager_int8_tensors`` are read too.
            artifact: one of format ``fx-graph``.
            threads: torch's threads while it runs, ≥ 1.

        Raises:
            ArtifactError: the graph cannot be built or run, or the probe fails.
        """
        tensors = bundle.path(bundle.artifact(TENSORS))
        try:
            with torch_scope(threads), warnings.catch_warnings():
                # torch says once per process that quantized tensors are deprecated.
                warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
                module = load_graph(bundle.path(artifact), tensors)
        except RuntimeError as error:
            raise ArtifactError(
                f"eager torch cannot build {artifact.name}: {first_line(error)}"
            ) from error
        loaded = LoadedGraph(module, artifact, threads)
        probe(loaded, artifact)
        return loaded


class LoadedGraph:
    """One built graph; see `runtime_check.runtime.LoadedArtifact`."""

    def __init__(self, module: GraphModule, artifact: Artifact, threads: int) -> None:
        """Keep the graph and the threads it runs with."""
        self._module = module
        self._artifact = artifact
        self._threads = threads

    @property
    def mode(self) -> Mode:
        """The engine that it runs under."""
        return "qnnpack"

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Run float32 (N, *input.shape) and return float32 (N, *output.shape).

        Raises:
            ArtifactError: the batch has another shape or dtype, or torch failed.
        """
        require_input(batch, self._artifact)
        try:
            with torch_scope(self._threads):
                output = self._module(torch.from_numpy(batch))
        except RuntimeError as error:
            raise ArtifactError(
                f"{self._artifact.name} failed in eager torch: {first_line(error)}"
            ) from error
        return as_array(output, self._artifact.name)
