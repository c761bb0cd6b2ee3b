"""The edges of a kit's bundle in the runtimes of this device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.device.contents import Contents
from runtime_check.machine import machine_facts
from runtime_check.targets.runner import FORMATS

_MODES = {"torchscript-lite": "qnnpack", "executorch": "xnnpack", "litert": "xnnpack"}


@dataclass(frozen=True)
class Edge:
    """One edge: ``artifact`` as the manifest has it, ``mode`` of its runtime, and its model.

    ``failure``: why its runtime, which is here, did not load it; ``model`` is None then.
    """

    artifact: dict[str, Any]
    mode: str
    model: Any
    failure: str | None = None

    @property
    def name(self) -> str:
        """Name of the artifact."""
        return str(self.artifact["name"])


def load_edges(contents: Contents, threads: int) -> tuple[list[Edge], list[dict[str, str]]]:
    """Load every edge whose runtime is installed here, in the mode of its shipping.

    Args:
        contents: a verified kit.
        threads: inside an operator, ≥ 1.

    Returns:
        The edges, and what was skipped: artifact and reason.
    """
    edges: list[Edge] = []
    skipped: list[dict[str, str]] = []
    precise = machine_facts()["ort_mode"]
    for artifact in contents.edges:
        mode = _MODES.get(artifact["format"], "default")
        if artifact["format"] in ("onnx", "ort") and artifact["precision"] == "int8":
            mode = precise
        try:
            edges.append(_load(contents, artifact, mode, threads))
        except (ImportError, LookupError) as error:
            reason = _reason(error, artifact["file"])
            skipped.append({"artifact": artifact["name"], "reason": reason})
    return edges, skipped


def first_line(error: Exception) -> str:
    """Return an error's kind and the first line of its message, at most 300 characters."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _load(contents: Contents, artifact: dict[str, Any], mode: str, threads: int) -> Edge:
    kind = FORMATS[artifact["format"]]
    ends = {end: artifact[end]["name"] for end in ("input", "output")}
    try:
        model = kind(contents.artifact_bytes(artifact), {"mode": mode, "threads": threads} | ends)
    except ImportError:
        raise
    # Whatever a runtime raises is the finding: the artifact does not load on this device.
    except Exception as error:
        return Edge(artifact, mode, None, first_line(error))
    return Edge(artifact, mode, model)


def _reason(error: Exception, file: str) -> str:
    if isinstance(error, ImportError):
        return f"{error.name or error} is not installed here"
    return f"a kit has no runner for {Path(file).suffix} files"
