"""Whether the runtime of a format is installed here, asked without importing it."""

from __future__ import annotations

from importlib.util import find_spec

from export.bundle import Bundle
from records.manifest import Artifact, Precision
from records.parity import SkippedArtifact

#: Artifact format → package that its runtime needs, and the extra that brings it.
_NEEDS = {
    "torchscript-lite": ("torch", "export"),
    "executorch": ("executorch", "executorch"),
    "litert": ("ai_edge_litert", "litert"),
}


def why_not_here(artifact: Artifact) -> str | None:
    """Return why an artifact cannot run on this installation, None where it can.

    Args:
        artifact: of any format.
    """
    package, extra = _NEEDS.get(artifact.format, (None, None))
    if package is None or find_spec(package) is not None:
        return None
    return f"{package} is not installed; run: pip install '.[{extra}]'"


def runnable_edges(bundle: Bundle, precision: Precision) -> tuple[Artifact, ...]:
    """Return the edges of one precision whose runtime is installed, in the manifest's order."""
    return tuple(a for a in bundle.edges(precision) if why_not_here(a) is None)


def skipped_artifacts(bundle: Bundle) -> tuple[SkippedArtifact, ...]:
    """Return the edges that cannot run on this installation, each with the reason."""
    found = ((artifact, why_not_here(artifact)) for artifact in bundle.edges())
    return tuple(
        SkippedArtifact(artifact=artifact.name, reason=reason)
        for artifact, reason in found
        if reason is not None
    )
