"""Latencies on this device: FP32 and INT8 interleaved in one run, as ``bench`` does on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from time import monotonic
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.device.contents import Contents
from benchmarks.device.edges import Edge, load_edges
from benchmarks.machine_state import cpu_use, state_facts
from benchmarks.timing import Measured, Subject, interleave
from records.progress import Progress


def bench(contents: Contents, threads: int, progress: Progress) -> dict[str, Any]:
    """Time every edge with one thread count; see `records.device.KitBench` for the result.

    Args:
        contents: a verified kit.
        threads: inside an operator, ≤ the cores of this device.
        progress: told about each round.
    """
    recipe: Any = SimpleNamespace(**contents.kit["bench"])
    edges, skipped = load_edges(contents, threads)
    skipped += [{"artifact": e.name, "reason": e.failure} for e in edges if e.failure is not None]
    edges = [edge for edge in edges if edge.failure is None]
    started, begin = _now(), monotonic()
    before, use_before = state_facts(), cpu_use()
    measured: tuple[Measured, ...] = ()
    if edges:
        subjects = [Subject(edge.name, _call(edge, recipe)) for edge in edges]
        task = f"bench, threads {threads}"
        measured = interleave(subjects, recipe, progress=progress, task=task)
    use_after, after = cpu_use(), state_facts()
    return {
        "threads": threads,
        "started_at": started,
        "ended_at": _now(),
        "seconds": monotonic() - begin,
        "before": before,
        "after": after,
        "use_before": asdict(use_before),
        "use_after": asdict(use_after),
        "artifacts": [
            {
                "artifact": edge.name,
                "mode": edge.mode,
                "blocks_ns": one.blocks,
                "cpu_seconds": one.cpu_seconds,
                "wall_seconds": one.wall_seconds,
            }
            for edge, one in zip(edges, measured, strict=True)
        ],
        "skipped": skipped,
    }


def _call(edge: Edge, recipe: Any) -> Callable[[], object]:
    shape = (recipe.batch_size, *edge.artifact["input"]["shape"])
    batch = np.random.default_rng(recipe.seed).standard_normal(shape, dtype=np.float32)

    def run() -> object:
        return edge.model.run(batch)

    return run


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
