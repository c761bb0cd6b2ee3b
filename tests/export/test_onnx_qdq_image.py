"""The convolution that reads the image, its kernel's rows among the channels: same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from baseline.split import split_network
from export.onnx_qdq import write_qdq_onnx
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe
from runtime_check.ort_graph import quantized_convolutions


def images(height: int, width: int) -> Tensor:
    return torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(1))


def edge_of(first: nn.Module, size: tuple[int, int]) -> QuantizedEdge:
    torch.manual_seed(0)
    for parameter in first.parameters():
        nn.init.normal_(parameter, std=0.3)
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten()).eval()
    edge = split_network(network, "2").edge
    return quantize_edge(edge, [images(*size)], ExportRecipe(activation_observer="min-max"))


def run(path: Path, batch: Tensor, *, optimized: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": batch.numpy()})[0])


@pytest.mark.parametrize("size", [(16, 16), (15, 18)])
@pytest.mark.parametrize(
    "first",
    [
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Conv2d(3, 8, 3, 1, 0),
        nn.Conv2d(3, 8, 5, 2, 2, bias=False),
        nn.Conv2d(3, 8, (2, 4), (3, 1), (1, 2)),
        nn.Conv2d(3, 8, 3, 2, (0, 2), dilation=(1, 2)),
    ],
)
def test_rows_among_the_channels_give_the_same_integers(
    first: nn.Conv2d, size: tuple[int, int], tmp_path: Path
) -> None:
    edge, path = edge_of(first, size), tmp_path / "x.onnx"
    write_qdq_onnx(edge.float_boundary, (3, *size), path, opset=17, boundary="wire")
    model = onnx.load_model(path)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    kernels = [list(a.ints) for n in convolutions for a in n.attribute if a.name == "kernel_shape"]
    # Two pixels at a time where the result has an even number of columns.
    columns = first(images(*size)).shape[3]
    paired = columns % 2 == 0 and first.dilation[1] == 1
    assert kernels == [[1, first.kernel_size[1] + paired * first.stride[1]], [3, 3]]
    assert [n.op_type for n in model.graph.node].count("Gather") == 1
    assert quantized_convolutions(path).complete
    with qnnpack_engine(), torch.no_grad():
        expected = edge.wire(images(*size)).numpy().astype(int)
    for optimized in (False, True):
        difference = np.abs(run(path, images(*size), optimized=optimized).astype(int) - expected)
        # A tie that float32 broke in the first layer shows in the second.
        assert difference.max() <= 1
        assert np.mean(difference == 0) >= 0.999


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(nn.Conv2d(3, 8, 1), id="one row"),
        pytest.param(nn.Conv2d(3, 8, 3, dilation=2), id="rows apart"),
        pytest.param(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 3)), id="not the image"),
    ],
)
def test_other_convolutions_stay_as_they_are(first: nn.Module, tmp_path: Path) -> None:
    edge, path = edge_of(first, (16, 16)), tmp_path / "x.onnx"
    write_qdq_onnx(edge.float_boundary, (3, 16, 16), path, opset=17, boundary="wire")
    assert not any(n.op_type == "Gather" for n in onnx.load_model(path).graph.node)


def test_of_many_products_pixels_stay_single(tmp_path: Path) -> None:
    first = nn.Conv2d(3, 8, (7, 3), (1, 2), (3, 1))
    edge, path = edge_of(first, (16, 16)), tmp_path / "x.onnx"
    write_qdq_onnx(edge.float_boundary, (3, 16, 16), path, opset=17, boundary="wire")
    convolution = next(n for n in onnx.load_model(path).graph.node if n.op_type == "Conv")
    assert [list(a.ints) for a in convolution.attribute if a.name == "strides"] == [[1, 2]]
