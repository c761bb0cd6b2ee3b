"""Where the instructions of an ONNX edge go on an emulated ARM CPU: node by node, exactly.

``python -m benchmarks.node_instructions BUNDLE --target cortex-a72 [--artifact edge_int8_onnx]``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.instructions import INFERENCES, SPREAD_LIMIT, WARMUP
from benchmarks.kernel_calls import kernel_calls, require_two_operators
from export.bundle import Bundle, load_bundle
from records import codec
from records.errors import EdgeveilError, UnsupportedHereError
from records.manifest import Artifact
from records.node_instructions import (
    NOTE,
    NodeInstructionRecord,
    NodeInstructions,
    OperatorInstructions,
)
from runtime_check.targets.call_trace import Call, TracedRun, parse_trace
from runtime_check.targets.counters import differences, median_counts, parse_marks
from runtime_check.targets.executed_graph import ExecutedNode, executed_nodes
from runtime_check.targets.open_target import opened_emulated
from runtime_check.targets.remote import send
from runtime_check.targets.session import RunnerSession
from runtime_check.targets.target import Target

ARTIFACT = "edge_int8_onnx"
#: Nodes that are printed; the record has all.
TOP = 15

Batch = npt.NDArray[np.float32]


def count_nodes(
    bundle: Bundle, target: Target, artifact_name: str = ARTIFACT, *, seed: int = 0
) -> NodeInstructionRecord:
    """Count the instructions of every node of an ONNX edge, one image, one thread.

    Two processes run the same inferences: one under the instruction counter, which says what the
    whole is, and one under the trace of calls, which says what lies between the call of each
    kernel and its return. The nodes are those that ONNX Runtime itself executes there.

    Args:
        bundle: a verified bundle.
        target: an emulated CPU.
        artifact_name: of an edge of format ``onnx``.
        seed: of the input, which is standard normal.

    Raises:
        BundleError: the bundle has no such artifact.
        ArtifactError: it does not load or run there.
        UnsupportedHereError: it is no ONNX file, nothing counts there, the kernels' calls cannot be
            told, or the two processes are more than `SPREAD_LIMIT` apart.
    """
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    artifact = bundle.artifact(artifact_name)
    _require_onnx(artifact, target)
    data, mode = bundle.read(artifact), target.modes(artifact)[0]
    batch = np.random.default_rng(seed).standard_normal((1, *artifact.input.shape))
    subject = _Subject(target, artifact, data, batch.astype(np.float32))
    counted, nodes = subject.counted()
    run, kernels = median_run(*subject.traced(nodes))
    require_near(run.instructions, counted)
    inside = tuple(_node(node, call) for node, call in zip(nodes, kernels, strict=True))
    first_to_last = kernels[-1].after - kernels[0].before
    return NodeInstructionRecord(
        bundle_id=bundle.manifest.bundle_id,
        split=bundle.manifest.split,
        artifact=artifact.name,
        precision=artifact.precision,
        mode=mode,
        target=target.record,
        warmup=WARMUP,
        inferences=INFERENCES,
        seed=seed,
        limit=SPREAD_LIMIT,
        counted=counted,
        whole=run.instructions,
        between=first_to_last - sum(node.instructions for node in inside),
        around=run.instructions - first_to_last,
        nodes=inside,
        operators=by_operator(inside, run.instructions),
        note=NOTE,
        started_at=started,
        seconds=time.monotonic() - begin,
    )


class _Subject:
    """One artifact on one target with its input."""

    def __init__(self, target: Target, artifact: Artifact, data: bytes, batch: Batch) -> None:
        self._target = target
        self._artifact = artifact
        self._data = data
        self._batch = batch
        self._mode = target.modes(artifact)[0]

    def counted(self) -> tuple[int, tuple[ExecutedNode, ...]]:
        """Return the instructions of an inference, and the nodes, asked for afterwards."""
        with self._target.counting(self._artifact.format) as (session, path):
            self._run(session)
            marks = parse_marks(path.read_text(encoding="ascii"))
            nodes = executed_nodes(session, self._data, self._artifact, self._mode)
        return median_counts(differences(marks, 0, INFERENCES))["all"], nodes

    def traced(
        self, nodes: Sequence[ExecutedNode]
    ) -> tuple[tuple[TracedRun, ...], tuple[tuple[Call, ...], ...]]:
        """Return the inferences of another process, and the calls of the kernels in each."""
        operators = [node.operator for node in nodes]
        require_two_operators(operators)
        with self._target.tracing(len(nodes)) as (session, path):
            self._run(session)
            runs = parse_trace(path.read_text(encoding="ascii"), 0, INFERENCES)
        return runs, kernel_calls(runs, operators)

    def _run(self, session: RunnerSession) -> None:
        loaded = send(session, self._data, self._artifact, self._mode)
        loaded.count(self._batch, first=0, warmup=WARMUP, runs=INFERENCES)


def median_run(
    runs: Sequence[TracedRun], kernels: Sequence[tuple[Call, ...]]
) -> tuple[TracedRun, tuple[Call, ...]]:
    """Return the run whose instructions are the lower median, and its calls of kernels.

    Args:
        runs: ≥ 1.
        kernels: of each run.
    """
    ranked = sorted(range(len(runs)), key=lambda k: runs[k].instructions)
    middle = ranked[(len(ranked) - 1) // 2]
    return runs[middle], kernels[middle]


def require_near(traced: int, counted: int) -> None:
    """Refuse where the traced process did other work than the counted one.

    Args:
        traced: instructions of an inference under the trace of calls.
        counted: the same under the instruction counter, in another process.

    Raises:
        UnsupportedHereError: they are more than `SPREAD_LIMIT` apart.
    """
    apart = abs(traced - counted) / counted
    if apart > SPREAD_LIMIT:
        raise UnsupportedHereError(
            f"the nodes and what is around them have {traced:,} instructions, but the whole "
            f"inference was counted as {counted:,}: {apart:.2%} apart, where {SPREAD_LIMIT:.1%} is "
            "allowed; try again"
        )


def by_operator(nodes: Sequence[NodeInstructions], whole: int) -> tuple[OperatorInstructions, ...]:
    """Return the nodes grouped by operator, the largest group first.

    Args:
        nodes: in any order.
        whole: instructions that the shares are of.
    """
    groups: dict[str, list[int]] = {}
    for node in nodes:
        groups.setdefault(node.operator, []).append(node.instructions)
    found = (
        OperatorInstructions(
            operator=name, nodes=len(each), instructions=sum(each), share=sum(each) / whole
        )
        for name, each in groups.items()
    )
    return tuple(sorted(found, key=lambda group: (-group.instructions, group.operator)))


def _require_onnx(artifact: Artifact, target: Target) -> None:
    if artifact.format != "onnx":
        raise UnsupportedHereError(
            f"{artifact.name} is {artifact.format}; instructions are given to nodes of ONNX files"
        )
    reason = target.missing(artifact)
    if reason is not None:
        raise UnsupportedHereError(reason)


def _node(node: ExecutedNode, call: Call) -> NodeInstructions:
    return NodeInstructions(
        operator=node.operator,
        output=node.output,
        tensor=node.tensor,
        dtype=node.dtype,
        shape=node.shape,
        instructions=call.instructions,
    )


def table(record: NodeInstructionRecord) -> str:
    """Return the record as lines of text: the operators, then the `TOP` most expensive nodes."""
    whole = record.whole
    lines = [
        f"{record.artifact}, {record.split}, {record.target.name}: {whole:,} instructions of one "
        f"inference, {len(record.nodes)} nodes",
        f"({record.note})",
        "",
        f"{'operator':36} {'nodes':>5} {'instructions':>13} {'share':>6}",
    ]
    for group in record.operators:
        lines.append(_row(group.operator, str(group.nodes), group.instructions, whole))
    lines.append(_row("(executor, between the nodes)", "", record.between, whole))
    lines.append(_row("(call from Python, input and output)", "", record.around, whole))
    columns = f"{'operator':28} {'tensor':30} {'shape':20} {'instructions':>13} {'share':>6}"
    lines += ["", f"{'node':>5} {columns}"]
    ranked = sorted(enumerate(record.nodes), key=lambda one: (-one[1].instructions, one[0]))
    for number, node in ranked[:TOP]:
        shape = f"{node.dtype} {'×'.join(map(str, node.shape))}"
        named = f"{_short(node.operator):28} {(node.tensor or node.output)[:30]:30} {shape:20}"
        share = node.instructions / whole
        lines.append(f"{number:5} {named} {node.instructions:13,} {share:6.1%}")
    return "\n".join(lines)


def _row(name: str, nodes: str, instructions: int, whole: int) -> str:
    return f"{_short(name):36} {nodes:>5} {instructions:13,} {instructions / whole:6.1%}"


def _short(operator: str) -> str:
    return operator.removeprefix("com.microsoft.")


def main(arguments: Sequence[str]) -> int:
    """Write and print the instructions of one artifact's nodes on one emulated CPU.

    Raises:
        SystemExit: of argparse, for wrong arguments; every other error is printed and returned as
            an exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node_instructions")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", required=True, help="cortex-a72 or cortex-a76")
    parser.add_argument("--target-cache", type=Path, help="as of `edgeveil target prepare`")
    parser.add_argument("--artifact", default=ARTIFACT, help="an edge of format onnx")
    parser.add_argument("--json", action="store_true", help="print the record, not the table")
    parser.add_argument("--out", type=Path, help="the record")
    parser.add_argument("--force", action="store_true", help="replace an existing record")
    options = parser.parse_args(arguments)
    try:
        bundle = load_bundle(options.bundle)
        with opened_emulated(options.target, options.target_cache) as target:
            record = count_nodes(bundle, target, options.artifact)
        if options.out is not None:
            codec.write(options.out, record, replace=options.force)
    except EdgeveilError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(codec.encode(record).decode().rstrip() if options.json else table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
