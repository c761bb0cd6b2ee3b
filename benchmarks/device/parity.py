"""The kit's victims through every edge, held against what eager INT8 and the host gave."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np

from baseline.preprocessing import preprocess
from benchmarks.device.contents import Contents
from benchmarks.device.edges import Edge, first_line, load_edges
from records.progress import Progress
from runtime_check.wire import to_wire

EAGER = "eager"
#: Images that go through an artifact at once: a device has little memory.
BATCH = 16
KEPT_WORST = 16


def check(contents: Contents, progress: Progress) -> dict[str, Any]:
    """Run the sample through every edge and compare, value by value.

    Args:
        contents: a verified kit with expected outputs.
        progress: told about each artifact.

    Returns:
        ``preprocessing_identical``: the input, preprocessed here, is the host's bit for bit.
        ``rows``: one an artifact, see `records.device.KitRow`. ``skipped``: artifact and reason.
    """
    images = contents.array("images")
    spec: Any = SimpleNamespace(**contents.manifest["preprocessing"])
    batch = preprocess(images, spec)
    digest = hashlib.sha256(np.ascontiguousarray(batch).tobytes()).hexdigest()
    edges, skipped = load_edges(contents, threads=1)
    rows = []
    for number, edge in enumerate(edges):
        rows.append(_row(contents, edge, batch))
        progress("check", number + 1, len(edges))
    same = digest == contents.kit["sample"]["input_sha256"]
    return {"preprocessing_identical": same, "rows": rows, "skipped": skipped}


def _row(contents: Contents, edge: Edge, batch: Any) -> dict[str, Any]:
    row = {"artifact": edge.name, "mode": edge.mode, "failure": edge.failure}
    if edge.failure is not None:
        return row
    try:
        output = _outputs(edge, batch)
    # Whatever a runtime raises is the finding: the artifact does not run on this device.
    except Exception as error:
        return row | {"failure": first_line(error)}
    if edge.artifact["precision"] == "fp32":
        return row | _real_difference(contents.array(edge.name), output)
    return row | _step_difference(contents, edge, output)


def _outputs(edge: Edge, batch: Any) -> Any:
    """Run a batch, float32 (N, …), in small parts; refuse what the manifest does not say."""
    spec = edge.artifact["output"]
    parts = []
    for start in range(0, len(batch), BATCH):
        part = np.ascontiguousarray(batch[start : start + BATCH])
        output = edge.model.run(part)
        expected = (len(part), *spec["shape"])
        if str(output.dtype) != spec["dtype"] or output.shape != expected:
            raise ValueError(
                f"returned {output.dtype}{output.shape} where the manifest says "
                f"{spec['dtype']}{expected}"
            )
        parts.append(output)
    found = np.concatenate(parts)
    if not np.isfinite(found).all():
        raise ValueError("returned a value that is not finite")
    return found


def _step_difference(contents: Contents, edge: Edge, output: Any) -> dict[str, Any]:
    wire = contents.wire
    q, off_grid = (output, 0) if edge.artifact["boundary"] == "wire" else to_wire(output, wire)
    too_large = int(np.count_nonzero(q > wire.largest))
    distance = _distance(q, contents.array(EAGER))
    host = None
    if edge.name in contents.kit["arrays"]:
        host = _histogram(_distance(q, contents.array(edge.name)))
    return {
        "from_eager": _histogram(distance),
        "from_host": host,
        "off_grid": off_grid + too_large,
        "worst": _worst(distance),
    }


def _real_difference(host: Any, output: Any) -> dict[str, Any]:
    left = host.astype(np.float64)
    difference = np.abs(left - output)
    return {
        "signal": float(np.sum(np.square(left))),
        "noise": float(np.sum(np.square(difference))),
        "max_abs": float(difference.max(initial=0.0)),
    }


def _distance(left: Any, right: Any) -> Any:
    return np.maximum(left, right) - np.minimum(left, right)


def _histogram(distance: Any) -> list[int]:
    counts = np.bincount(distance.reshape(-1), minlength=1)
    return [int(count) for count in counts]


def _worst(distance: Any) -> list[dict[str, int]]:
    flat = distance.reshape(len(distance), -1)
    largest, total = flat.max(axis=1), flat.sum(axis=1, dtype=np.int64)
    order = np.lexsort((np.arange(len(total)), -total, -largest.astype(np.int64)))[:KEPT_WORST]
    return [
        {"index": int(i), "max_lsb": int(largest[i]), "sum_lsb": int(total[i])}
        for i in order
        if total[i] > 0
    ]
