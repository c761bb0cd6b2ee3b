"""An edge as an ExecuTorch program (``.pte``), lowered to XNNPACK, at FX's own scales.

The only module that imports ``executorch`` to write an artifact. The batch is 1: a program's memory
is planned when it is made.
"""

from __future__ import annotations

import contextlib
import io
import logging
import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from export.executorch_import import quiet_import
from export.layers import LayerGraph
from export.pte_module import PteModule
from records import files
from records.errors import ExportError

with quiet_import():
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

_DELEGATE = "executorch_call_delegate"


@dataclass(frozen=True)
class PteProgram:
    """A lowered program: its bytes, and the operators that XNNPACK did not take."""

    data: bytes
    delegates: int
    not_delegated: tuple[str, ...]


def write_pte(layers: LayerGraph, path: Path, *, wire: bool) -> PteProgram:
    """Write an edge as ``.pte``; the same layers give the same bytes.

    Args:
        layers: of `export.layer_reader.read_layers`, quantized or FP32.
        path: the new file.
        wire: end with the uint8 tensor that is really sent, else with floats.

    Raises:
        ExportError: ExecuTorch cannot export or lower the edge.
        OverwriteError: the file exists.
    """
    program = lower(layers, wire=wire)
    files.write_bytes(path, program.data)
    return program


def lower(layers: LayerGraph, *, wire: bool) -> PteProgram:
    """Export and lower an edge; nothing is written.

    Raises:
        ExportError: ExecuTorch cannot export or lower the edge.
    """
    if wire and layers.boundary.grid is None:
        raise ExportError("an FP32 edge has no wire")
    module = PteModule(layers, wire=wire).eval()
    image = torch.zeros(1, *layers.image.shape)
    with quiet():
        try:
            with torch.no_grad():
                exported = torch.export.export(module, (image,), strict=False)
            edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            called = _called(edge.exported_program().graph)
            program = edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True))
        # Exporting and lowering raise errors of many kinds, without a base class of their own.
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"ExecuTorch cannot lower this edge: {first}") from error
    return PteProgram(
        data=bytes(program.buffer),
        delegates=called.count(_DELEGATE),
        not_delegated=tuple(name for name in called if name != _DELEGATE),
    )


def _called(graph: fx.Graph) -> list[str]:
    """Return what a lowered graph calls; taking a delegate's output is no call."""
    return [
        str(getattr(node.target, "__name__", node.target))
        for node in graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a lowering's progress, warnings and logs off the terminal: errors are raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
