"""Bytes of a bundle's artifacts, as the verified manifest states them, and their ratios."""

from __future__ import annotations

from collections.abc import Sequence

from export.bundle import Bundle
from records.bench import ArtifactSize, SizeRatio
from records.manifest import Artifact
from records.parity import RuntimeName
from runtime_check.runtime import RUNTIME_OF


def shipped(bundle: Bundle) -> tuple[Artifact, ...]:
    """Return the artifacts that are shipped to a device or a server, in the manifest's order."""
    return tuple(
        artifact
        for artifact in bundle.manifest.artifacts
        if artifact.role in {"edge", "server"} and artifact.format in RUNTIME_OF
    )


def runtime_name(artifact: Artifact) -> RuntimeName:
    """Return the runtime of a shipped artifact.

    Raises:
        KeyError: the artifact's format is not a shipped one.
    """
    return RUNTIME_OF[artifact.format]


def artifact_sizes(artifacts: Sequence[Artifact]) -> tuple[ArtifactSize, ...]:
    """Return weight and file bytes of each shipped artifact, in the order given."""
    return tuple(
        ArtifactSize(
            artifact=artifact.name,
            role="server" if artifact.role == "server" else "edge",
            runtime=runtime_name(artifact),
            precision=artifact.precision,
            boundary=artifact.boundary,
            weight_bytes=artifact.weight_bytes,
            file_bytes=artifact.size,
            sha256=artifact.sha256,
        )
        for artifact in artifacts
    )


def size_ratios(sizes: Sequence[ArtifactSize]) -> tuple[SizeRatio, ...]:
    """Return FP32 / INT8 bytes for each pair of edge artifacts of one runtime.

    ``weight_ratio`` is None where the INT8 artifact has no weights.
    """
    edges = [size for size in sizes if size.role == "edge"]
    return tuple(
        SizeRatio(
            runtime=int8.runtime,
            fp32=fp32.artifact,
            int8=int8.artifact,
            weight_ratio=_ratio(fp32.weight_bytes, int8.weight_bytes),
            file_ratio=fp32.file_bytes / int8.file_bytes,
        )
        for fp32 in edges
        for int8 in edges
        if (fp32.precision, int8.precision) == ("fp32", "int8") and fp32.runtime == int8.runtime
    )


def _ratio(above: int, below: int) -> float | None:
    return above / below if below else None
