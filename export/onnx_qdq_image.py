"""QDQ ONNX of the convolution that reads the image: the rows of its kernel become channels.

A kernel of ``kh`` rows over ``c`` channels is a kernel of one row over ``c · kh`` channels when
each row of the result has the ``kh`` rows that it reads stacked along the channel axis. The weights
are the same numbers in the same order, and so are the results. Without this, ONNX Runtime copies
nine bytes at a time for each pixel of the result and each row of the kernel, which costs more
than the products; whole rows of the image are copied at once instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from export.onnx_qdq_writer import Call, QdqWriter

#: Of more channels the copies are long enough as they are, and the layout is no longer the image's.
_MOST_CHANNELS = 4
_QUANTIZE = (torch.quantize_per_tensor,)


def reads_image(call: Call, packed: Any) -> bool:
    """Whether a quantized convolution reads the image and its rows can be stacked.

    Args:
        call: of the convolution.
        packed: its packed weights.
    """
    if call.source.target not in _QUANTIZE or call.source.all_input_nodes[0].op != "placeholder":
        return False
    weight: torch.Tensor = packed.unpack()[0]
    plain: bool = packed.groups() == 1 and packed.dilation()[0] == 1
    return plain and weight.shape[1] <= _MOST_CHANNELS and weight.shape[2] > 1


def stacked_rows(writer: QdqWriter, call: Call, packed: Any) -> str:
    """Return the float32 tensor (N, c · kh, rows of the result, W), behind a DequantizeLinear."""
    source, (top, _) = call.source, packed.padding()
    height, stride = packed.unpack()[0].shape[2], packed.stride()[0]
    channels, available, width = writer.shape(source)
    count = writer.shape(call.node)[1]
    below = max(0, (count - 1) * stride + height - top - available)
    name = _padded(writer, source, top, below)
    starts = np.arange(count, dtype=np.int32) * stride
    rows = writer.graph.constant(
        f"{call.node.name}_rows", np.arange(height, dtype=np.int32)[:, None] + starts
    )
    gathered = writer.graph.node("Gather", [name, rows], axis=2)
    shape = np.asarray((0, channels * height, count, width), np.int64)
    sizes = writer.graph.constant(f"{call.node.name}_shape", shape)
    stacked = writer.graph.node("Reshape", [gathered, sizes])
    return writer.graph.node("DequantizeLinear", [stacked, *writer.parameters(source)])


def _padded(writer: QdqWriter, source: fx.Node, top: int, below: int) -> str:
    """Put rows of real zeros above and below the stored integers."""
    stored = writer.stored(source)
    if not top and not below:
        return stored
    pads = np.asarray((0, 0, top, 0, 0, 0, below, 0), np.int64)
    inputs = [stored, writer.graph.constant(f"{source.name}_pads", pads)]
    return writer.graph.node("Pad", [*inputs, writer.parameters(source)[1]])
