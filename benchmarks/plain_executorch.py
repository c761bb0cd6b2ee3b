"""ExecuTorch's own INT8 export of a float edge: PT2E with ``XNNPACKQuantizer``.

The recipe that ExecuTorch documents for XNNPACK: static quantization, int8 activations, int8
weights with one scale an output channel
(https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html). Nothing of
`export.pte` is used, so that what is compared with it does not change with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from export.pte import quiet
from records.errors import ExportError

TOOL = "executorch.backends.xnnpack.quantizer.XNNPACKQuantizer"
_DELEGATE = "executorch_call_delegate"

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PlainProgram:
    """A ``.pte`` for one image; ``delegates``: parts of the graph that XNNPACK took."""

    data: bytes
    delegates: int


def plain_executorch(edge: nn.Module, images: Images) -> PlainProgram:
    """Quantize and lower a float network as ExecuTorch's documentation says.

    Args:
        edge: float32 (1, C, H, W) → one float32 tensor, in eval mode.
        images: preprocessed calibration images, float32 (N, C, H, W), shown one by one: the
            program's batch is 1.

    Returns:
        The program, with float input and output.

    Raises:
        ExportError: there are no images, or ExecuTorch cannot quantize or lower the network.
    """
    if len(images) == 0:
        raise ExportError("there are no calibration images for XNNPACKQuantizer")
    shown = torch.split(torch.from_numpy(images), 1)
    with quiet(), torch.no_grad():
        try:
            quantized = _quantized(edge, shown)
            lowered = to_edge_transform_and_lower(
                torch.export.export(quantized, (shown[0],)), partitioner=[XnnpackPartitioner()]
            )
            called = [str(node.target) for node in lowered.exported_program().graph.nodes]
            data = bytes(lowered.to_executorch().buffer)
        # Exporting and lowering raise errors of many kinds, without a base class of their own.
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"ExecuTorch's own export refuses the float edge: {first}") from error
    return PlainProgram(data=data, delegates=called.count(_DELEGATE))


def _quantized(edge: nn.Module, shown: tuple[torch.Tensor, ...]) -> nn.Module:
    quantizer = XNNPACKQuantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(edge, (shown[0],)).module(), quantizer)
    for image in shown:
        prepared(image)
    converted: nn.Module = convert_pt2e(prepared)
    return converted
