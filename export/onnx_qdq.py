"""A quantized edge as QDQ ONNX, with the scales and zero points that FX calibrated.

Written node by node from the converted FX graph: activations uint8, weights int8, biases int32,
each operator in float between DequantizeLinear and QuantizeLinear, which ONNX Runtime turns into
integer kernels. Nothing is calibrated a second time. What only moves or clamps values works on the
stored integers. An operator that is not known is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import fx

from export.fx_facts import key_of
from export.onnx_graph import batched, model_bytes
from export.onnx_qdq_layers import LAYERS
from export.onnx_qdq_pointwise import POINTWISE
from export.onnx_qdq_pooling import POOLING
from export.onnx_qdq_shapes import SHAPES
from export.onnx_qdq_writer import Call, OperatorWriter, QdqWriter, refuse
from export.quantize import qnnpack_engine
from records import files
from records.errors import ExportError

_INPUT, _BOUNDARY = "input", "boundary"


def write_qdq_onnx(
    float_boundary: fx.GraphModule,
    input_shape: tuple[int, ...],
    path: Path,
    *,
    opset: int,
    boundary: Literal["float", "wire"],
) -> None:
    """Write a converted FX graph as QDQ ONNX; the same graph gives the same bytes.

    Args:
        float_boundary: the graph of ``quantize_edge``, which ends with a dequantize.
        input_shape: (3, S, S), without the batch axis; the input is named ``input``, float32.
        path: the new file.
        opset: of the ONNX domain, 17 to 21.
        boundary: ``float`` ends with a DequantizeLinear, ``wire`` with the uint8 tensor that is
            really sent; the output is named ``boundary``.

    Raises:
        ExportError: an operator, weight or scale cannot be written; names the node.
        OverwriteError: the file exists.
    """
    with qnnpack_engine():
        writer = QdqWriter(float_boundary, input_shape, opset)
        sent = _sent(float_boundary)
        for node in float_boundary.graph.nodes:
            if node.op == "placeholder":
                writer.put_real(node, _INPUT)
            elif _is_needed(node) and writer.computes_tensors(node):
                _write_call(writer, writer.call(node))
        end = writer.real(sent) if boundary == "float" else writer.wire(sent)
        writer.graph.rename(end, _BOUNDARY)
        shape = writer.shape(sent)
    source = batched(_INPUT, onnx.TensorProto.FLOAT, input_shape)
    kind = onnx.TensorProto.FLOAT if boundary == "float" else onnx.TensorProto.UINT8
    model = writer.graph.model(source, batched(_BOUNDARY, kind, shape), opset=opset)
    files.write_bytes(path, model_bytes(model, path.name))


def _write_call(writer: QdqWriter, call: Call) -> None:
    key = key_of(call.node, call.module)
    write = _WRITERS.get(key)
    if write is None:
        refuse(call.node, f"there is no writer for {_described(key)}")
    write(writer, call)


def _described(key: object) -> str:
    if isinstance(key, type):
        return f"{key.__module__}.{key.__name__}"
    return f"method {key}" if isinstance(key, str) else f"function {key}"


def _sent(module: fx.GraphModule) -> fx.Node:
    """Return the quantized node before the dequantize that the graph ends with."""
    last = module.graph.output_node().args[0]
    if not isinstance(last, fx.Node) or last.target not in _DEQUANTIZE:
        raise ExportError("the converted edge must end with a dequantize of its one output")
    sent = last.args[0]
    if not isinstance(sent, fx.Node):
        raise ExportError("the converted edge dequantizes no tensor of its graph")
    return sent


def _is_needed(node: fx.Node) -> bool:
    """Whether a node computes something that another one reads; the end is written apart."""
    readers = [user for user in node.users if user.op != "output"]
    return node.op.startswith("call_") and bool(readers)


def _quantize(writer: QdqWriter, call: Call) -> None:
    writer.put_real(call.node, writer.real(call.source))


def _dequantize(writer: QdqWriter, call: Call) -> None:
    writer.put_real(call.node, writer.real(call.source))


_DEQUANTIZE = ("dequantize", torch.dequantize)

_WRITERS: dict[object, OperatorWriter] = {
    **LAYERS,
    **POINTWISE,
    **POOLING,
    **SHAPES,
    torch.quantize_per_tensor: _quantize,
    **dict.fromkeys(_DEQUANTIZE, _dequantize),
}
