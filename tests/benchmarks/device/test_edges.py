"""What a kit does not run is named, with a reason that says what is missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from benchmarks.device.edges import load_edges


def test_an_executorch_program_is_skipped_by_name() -> None:
    artifact = {
        "name": "edge_int8_pte",
        "file": "edge_int8.pte",
        "format": "executorch",
        "precision": "int8",
    }
    contents: Any = SimpleNamespace(edges=(artifact,))
    loaded, skipped = load_edges(contents, 1)
    assert loaded == []
    reason = "a kit has no runner for .pte files"
    assert skipped == [{"artifact": "edge_int8_pte", "reason": reason}]
