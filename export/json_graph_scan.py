"""Structural scan of the eager reference's graph file: strict JSON of a bounded size.

What its nodes may be is checked by `export.fx_graph.load_graph`, from its own allow-list, when the
graph is loaded; that needs torch, this does not.
"""

from __future__ import annotations

from export.bundle_errors import MalformedArtifactError
from export.strict_json import JsonError, parse_json

#: A graph of a thousand nodes has about 300 kB.
MAX_GRAPH_BYTES = 16 << 20


def scan_json_graph(data: bytes, where: str) -> None:
    """Verify that a graph file is one strict JSON object.

    Args:
        data: the file's bytes.
        where: the file's path, for errors.

    Raises:
        MalformedArtifactError: too large, not strict JSON, or not an object.
    """
    if len(data) > MAX_GRAPH_BYTES:
        raise MalformedArtifactError(
            f"{where} has {len(data)} bytes, too many for a graph; export again"
        )
    try:
        graph = parse_json(data)
    except JsonError as error:
        raise MalformedArtifactError(f"{where} is not a graph: {error}; export again") from error
    if not isinstance(graph, dict) or not graph:
        raise MalformedArtifactError(f"{where} is not a JSON object; export again")
