"""The record of ``benchmarks.node_instructions``: what each node of an ONNX edge takes on ARM."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.manifest import Precision, Sha256
from records.parity import Mode
from records.target import TargetRecord

NOTE = "instructions are not cycles: a node's share of them is not its share of the time"

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class NodePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class NodeInstructions(NodePart, frozen=True, kw_only=True):
    """One node of the optimized graph.

    ``operator``: with its domain before it, but for ONNX's own. ``output``: name of its first
    output in that graph; ``tensor``: the tensor of the exported file that this is, None where the
    file has none. ``dtype``, ``shape``: of that output for one image, in the layout that the
    runtime computes in. ``instructions``: from the call of its kernel to the return.
    """

    operator: str
    output: str
    tensor: str | None
    dtype: str
    shape: tuple[int, ...]
    instructions: Count


class OperatorInstructions(NodePart, frozen=True, kw_only=True):
    """All nodes of one operator; ``share``: of the whole inference."""

    operator: str
    nodes: Positive
    instructions: Count
    share: Share


class NodeInstructionRecord(NodePart, frozen=True, kw_only=True):
    """One inference of one image, one thread, node by node in the order of execution.

    ``whole`` = the nodes' instructions + ``between`` (the executor, from the first kernel's call to
    the last one's return) + ``around`` (the call from Python, input and output), without rest.
    It is the inference of the lower median of ``inferences`` in a traced process. ``counted``:
    median of as many in another process, by the instruction counter that ``bench`` uses; the two
    are no further apart than ``limit``, relative. ``operators``: the largest first.
    """

    schema: Literal["edgeveil.node_instructions/1"] = "edgeveil.node_instructions/1"
    bundle_id: Sha256
    split: str
    artifact: str
    precision: Precision
    mode: Mode
    target: TargetRecord
    warmup: Count
    inferences: Positive
    seed: int
    limit: float
    counted: Positive
    whole: Positive
    between: Count
    around: Count
    nodes: Annotated[tuple[NodeInstructions, ...], Meta(min_length=1)]
    operators: Annotated[tuple[OperatorInstructions, ...], Meta(min_length=1)]
    note: str
    started_at: str
    seconds: float
