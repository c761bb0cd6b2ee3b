"""QDQ ONNX of the convolution that reads the image: the rows of its kernel become channels.

A kernel of ``kh`` rows over ``c`` channels is a kernel of one row over ``c · kh`` channels when
each row of the result has the ``kh`` rows that it reads stacked along the channel axis. The weights
are the same numbers in the same order, and so are the results. Without this, ONNX Runtime copies
nine bytes at a time for each pixel of the result and each row of the kernel, which costs more
than the products; whole rows of the image are copied at once instead.

What is left is a copy for each pixel of the result, some 140 instructions. Where the products are
few, two pixels beside each other are computed as one of twice the channels, by a kernel that is
wider by one stride: half the copies, and some products with zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from export.onnx_qdq_shapes import reshaped
from export.onnx_qdq_writer import Call, QdqWriter

#: Of more channels the copies are long enough as they are, and the layout is no longer the image's.
_MOST_CHANNELS = 4
#: Products with zero for one pixel that half a copy outweighs: each costs up to a quarter of an
#: instruction where the CPU has no 8-bit dot product.
_MOST_ZEROS = 320
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
    stacked = reshaped(writer, call.node, gathered, (channels * height, count, width))
    return writer.graph.node("DequantizeLinear", [stacked, *writer.parameters(source)])


def is_paired(writer: QdqWriter, call: Call, packed: Any) -> bool:
    """Whether two pixels of a convolution that reads the image are computed as one.

    Args:
        writer: knows the shapes.
        call: of the convolution, for which `reads_image` holds.
        packed: its packed weights.
    """
    outputs, channels, height, _ = packed.unpack()[0].shape
    zeros = int(outputs * channels * height * packed.stride()[1])
    even = writer.shape(call.node)[2] % 2 == 0
    return even and packed.dilation()[1] == 1 and zeros <= _MOST_ZEROS


def paired_weights(weights: npt.NDArray[np.int8], stride: int) -> npt.NDArray[np.int8]:
    """Return weights of two pixels, int8 of shape (2 · O, c, 1, w + stride): the left one first.

    Args:
        weights: of a kernel of one row, int8 of shape (O, c, 1, w).
        stride: along the columns.
    """
    rest = ((0, 0),) * 3
    left, right = (np.pad(weights, (*rest, ends)) for ends in ((0, stride), (stride, 0)))
    return np.concatenate([left, right])


def paired_margins(writer: QdqWriter, call: Call, packed: Any) -> tuple[int, int]:
    """Return how many columns of zeros stand left and right of the image for pairs of pixels."""
    left, stride = packed.padding()[1], packed.stride()[1]
    reach = (writer.shape(call.node)[2] - 1) * stride + packed.unpack()[0].shape[3]
    return left, max(0, reach - left - writer.shape(call.source)[2])


def unpaired(writer: QdqWriter, node: fx.Node, stored: str) -> str:
    """Return stored integers (N, 2 · O, H, W / 2) as the node's (N, O, H, W).

    Where channels come last, as in ONNX Runtime's kernels, nothing is moved: it takes both
    transpositions out.
    """
    channels, height, width = writer.shape(node)
    last = writer.graph.node("Transpose", [stored], perm=[0, 2, 3, 1])
    single = reshaped(writer, node, last, (height, width, channels))
    return writer.graph.node("Transpose", [single], perm=[0, 3, 1, 2])


def _padded(writer: QdqWriter, source: fx.Node, top: int, below: int) -> str:
    """Put rows of real zeros above and below the stored integers."""
    stored = writer.stored(source)
    if not top and not below:
        return stored
    pads = np.asarray((0, 0, top, 0, 0, 0, below, 0), np.int64)
    inputs = [stored, writer.graph.constant(f"{source.name}_pads", pads)]
    return writer.graph.node("Pad", [*inputs, writer.parameters(source)[1]])
