"""The bundle's best INT8 edge against ExecuTorch's own export: what is counted, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from export.bundle import Bundle
from records.arm_comparison import ExecutorchExport
from records.errors import UnsupportedHereError
from records.hashing import sha256_bytes
from records.instructions import ArtifactInstructions
from records.manifest import Artifact
from records.target import SkippedArtifact
from runtime_check.availability import why_not_here
from runtime_check.targets.target import Target

#: What ExecuTorch's own export is called among the artifacts.
OWN = "executorch_own"


@dataclass(frozen=True)
class OwnProgram:
    """ExecuTorch's own export, described as an artifact of the bundle would be."""

    tool: str
    artifact: Artifact
    data: bytes
    delegates: int


def own_program(
    bundle: Bundle,
    target: Target,
    fp32: Artifact,
    images: npt.NDArray[np.float32],
    weights: Path | None,
) -> OwnProgram:
    """Export the bundle's float edge as ExecuTorch's documentation says.

    Args:
        bundle: a verified bundle.
        target: where it will be counted.
        fp32: the bundle's FP32 ONNX edge.
        images: preprocessed calibration images, float32 (N, 3, S, S).
        weights: the checkpoint of the bundle's network.

    Raises:
        UnsupportedHereError: no weights were named, a package is missing, the target has no
            ExecuTorch, or the network cannot be built again.
        InputError: the weights are not those of the bundle.
        ExportError: ExecuTorch cannot export the edge.
    """
    described = msgspec.structs.replace(
        fp32, name=OWN, file=f"{OWN}.pte", format="executorch", precision="int8", opset=None
    )
    reason = why_not_here(described) or target.missing(described)
    if weights is None:
        reason = "it starts from the network itself: name its checkpoint with --weights"
    if reason is not None or weights is None:
        raise UnsupportedHereError(str(reason))
    # Both import packages that may be missing here.
    from benchmarks.plain_executorch import TOOL, plain_executorch
    from benchmarks.rebuilt_edge import rebuilt_edge

    program = plain_executorch(rebuilt_edge(bundle, fp32, weights, images), images)
    artifact = msgspec.structs.replace(
        described, sha256=sha256_bytes(program.data), size=len(program.data)
    )
    return OwnProgram(TOOL, artifact, program.data, program.delegates)


def int8_edges(
    bundle: Bundle, target: Target
) -> tuple[tuple[Artifact, ...], tuple[SkippedArtifact, ...]]:
    """Return the INT8 edges with a float boundary that run on a target, and those that do not."""
    edges = [a for a in bundle.edges("int8") if a.boundary == "float"]
    reasons = {a.name: target.missing(a) for a in edges}
    return (
        tuple(a for a in edges if reasons[a.name] is None),
        tuple(SkippedArtifact(artifact=n, reason=r) for n, r in reasons.items() if r is not None),
    )


def verdict(
    own: OwnProgram, counted: ArtifactInstructions, int8: Sequence[ArtifactInstructions]
) -> ExecutorchExport:
    """Compare the cheapest INT8 edge with ExecuTorch's own.

    Args:
        own: the program.
        counted: its instructions.
        int8: those of the bundle's edges, at least one; the first of equals is the best.
    """
    best = min(int8, key=lambda one: one.mean.all)
    return ExecutorchExport(
        tool=own.tool,
        sha256=own.artifact.sha256,
        file_bytes=own.artifact.size,
        delegates=own.delegates,
        counted=counted,
        int8=tuple(int8),
        best=best.artifact,
        ratio=best.mean.all / counted.mean.all,
        not_above=best.mean.all <= counted.mean.all,
    )
