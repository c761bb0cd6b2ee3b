"""What ONNX Runtime makes of a QDQ model: which convolutions it computes in integers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from records.errors import ArtifactError

#: Convolutions that compute in float, under the names that ONNX Runtime's own fusions give them.
_FLOAT_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv"})
_INTEGER_CONVOLUTIONS = frozenset({"QLinearConv"})
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class ConvFusion:
    """What became of a model's convolutions in ONNX Runtime's optimized graph.

    ``total``: convolutions in the file; ``fused``: QLinearConv nodes in the optimized graph;
    ``float_left``: names of the nodes that still convolve in float.
    """

    total: int
    fused: int
    float_left: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every convolution of the file is computed in integers."""
        return self.fused == self.total and not self.float_left


def quantized_convolutions(path: Path) -> ConvFusion:
    """Optimize a model as ONNX Runtime does for the CPU and count its integer convolutions.

    The level is ``ORT_ENABLE_EXTENDED``: everything but hardware-specific layouts, so the answer
    is the same on every machine.

    Args:
        path: an ``.onnx`` file.

    Raises:
        ArtifactError: the file is not ONNX, or ONNX Runtime refuses it.
    """
    try:
        written = onnx.load_model(path)
    # protobuf's DecodeError comes from a module that onnx does not export.
    except Exception as error:
        raise ArtifactError(f"{path} cannot be read as ONNX: {error}") from error
    optimized = _optimized(path)
    return ConvFusion(
        total=sum(1 for _ in _convolutions(written.graph)),
        fused=sum(1 for n in _convolutions(optimized.graph) if n.op_type in _INTEGER_CONVOLUTIONS),
        float_left=tuple(
            n.name or n.output[0]
            for n in _convolutions(optimized.graph)
            if n.op_type in _FLOAT_CONVOLUTIONS
        ),
    )


def _convolutions(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.op_type in _FLOAT_CONVOLUTIONS | _INTEGER_CONVOLUTIONS:
            yield node


def _optimized(path: Path) -> onnx.ModelProto:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = _ERRORS_ONLY
    with tempfile.TemporaryDirectory(prefix="edgeveil-") as folder:
        target = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's errors share no base class below Exception.
        except Exception as error:
            raise ArtifactError(f"ONNX Runtime cannot load {path.name}: {error}") from error
        return onnx.load_model(target)
