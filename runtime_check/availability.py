"""Whether an artifact can run here: its runtime is installed, and gives what ARM gives."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from export.bundle import Bundle
from records.manifest import Artifact, Precision
from records.target import SkippedArtifact
from runtime_check.machine import needs_precise_mode

if TYPE_CHECKING:
    from runtime_check.targets.target import Target

#: Artifact format → packages that its runtime needs, each with the extra that brings it.
#: ExecuTorch's Python runtime takes and gives torch's tensors, and its package does not bring them.
_NEEDS = {
    "torchscript-lite": {"torch": "export"},
    "executorch": {"executorch": "executorch", "torch": "export"},
    "litert": {"ai_edge_litert": "litert"},
}


#: Why an INT8 ``.ort`` does not run on an x86 CPU without VNNI.
ORT_SATURATES = (
    "this x86 CPU has no VNNI: ONNX Runtime's default INT8 kernels saturate, and its precise mode "
    "does not reach an .ort file; run it with --target cortex-a76, or on an ARM device"
)


def why_not_here(artifact: Artifact) -> str | None:
    """Return why an artifact cannot run rightly on this installation, None where it can.

    Args:
        artifact: of any format.
    """
    if artifact.format == "ort" and artifact.precision == "int8" and needs_precise_mode():
        return ORT_SATURATES
    needed = _NEEDS.get(artifact.format, {})
    missing = [package for package in needed if find_spec(package) is None]
    if not missing:
        return None
    extras = ",".join(needed[package] for package in missing)
    verb = "is" if len(missing) == 1 else "are"
    return f"{' and '.join(missing)} {verb} not installed; run: pip install '.[{extras}]'"


def runnable_edges(
    bundle: Bundle, precision: Precision, target: Target | None = None
) -> tuple[Artifact, ...]:
    """Return the edges of one precision that can run, in the manifest's order.

    Args:
        bundle: a verified bundle.
        precision: of the edges.
        target: where to run; None for this installation.
    """
    return tuple(a for a in bundle.edges(precision) if _why_not(a, target) is None)


def skipped_artifacts(bundle: Bundle, target: Target | None = None) -> tuple[SkippedArtifact, ...]:
    """Return the edges that cannot run, each with the reason.

    Args:
        bundle: a verified bundle.
        target: where to run; None for this installation.
    """
    found = ((artifact, _why_not(artifact, target)) for artifact in bundle.edges())
    return tuple(
        SkippedArtifact(artifact=artifact.name, reason=reason)
        for artifact, reason in found
        if reason is not None
    )


def _why_not(artifact: Artifact, target: Target | None) -> str | None:
    return why_not_here(artifact) if target is None else target.missing(artifact)
