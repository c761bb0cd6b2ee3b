"""Whether the runtime of a format is installed here, asked without importing it."""

from __future__ import annotations

from importlib.util import find_spec

from records.manifest import Artifact

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
