"""Weights as uint8 where that is cheaper, and linear layers that need no reshape between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from baseline.split import split_network
from export.onnx_qdq import write_qdq_onnx
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe


def edge_of(network: nn.Module, cut: str, images: Tensor) -> QuantizedEdge:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    edge = split_network(network.eval(), cut).edge
    return quantize_edge(edge, [images], ExportRecipe(activation_observer="min-max"))


def written(edge: QuantizedEdge, images: Tensor, path: Path) -> onnx.ModelProto:
    """Write the edge and hold it against FX, with and without ONNX Runtime's optimizations."""
    write_qdq_onnx(edge.float_boundary, tuple(images.shape[1:]), path, opset=17, boundary="wire")
    with qnnpack_engine(), torch.no_grad():
        expected = edge.wire(images).numpy().astype(int)
    level = onnxruntime.GraphOptimizationLevel
    for chosen in (level.ORT_DISABLE_ALL, level.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = chosen
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = session.run(None, {"input": images.numpy()})[0].astype(int)
        assert np.abs(found - expected).max() <= 1
        assert np.mean(found == expected) >= 0.99
    return onnx.load_model(path)


@pytest.mark.parametrize(
    ("convolution", "kind"),
    [
        pytest.param(nn.Conv2d(16, 24, 1), np.uint8, id="16 inputs"),
        pytest.param(nn.Conv2d(16, 8, 3), np.int8, id="144 inputs"),
        pytest.param(nn.Conv2d(16, 16, 3, groups=16), np.int8, id="depthwise"),
        pytest.param(nn.Conv2d(16, 16, 1, groups=2), np.int8, id="grouped"),
    ],
)
def test_few_inputs_have_uint8_weights(
    convolution: nn.Conv2d, kind: type[np.generic], tmp_path: Path
) -> None:
    network = nn.Sequential(convolution, nn.ReLU(), nn.Flatten())
    images = torch.randn(4, 16, 9, 9, generator=torch.Generator().manual_seed(2))
    edge = edge_of(network, "1", images)
    model = written(edge, images, tmp_path / "x.onnx")
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    weight = next(array for array in stored.values() if array.ndim == 4)
    assert weight.dtype == kind
    layer: Any = edge.wire.get_submodule("0")
    offset = 128 if kind is np.uint8 else 0
    expected = layer.weight().int_repr().numpy()
    np.testing.assert_array_equal(weight.astype(int) - offset, expected)


class Head(nn.Module):
    """Two linear layers behind a pool, as MobileNetV3 ends."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.activation = nn.Linear(12, 20), activation
        self.dropout, self.second = nn.Dropout(), nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
        found: Tensor = self.second(self.dropout(self.activation(self.first(pooled))))
        return found


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.ReLU6(), nn.Sigmoid()])
def test_linear_layers_stay_pixels(activation: nn.Module, tmp_path: Path) -> None:
    images = torch.randn(16, 12, 4, 4, generator=torch.Generator().manual_seed(3)) * 3
    edge = edge_of(Head(activation), "output", images)
    model = written(edge, images, tmp_path / "x.onnx")
    reshapes = Counter(node.op_type for node in model.graph.node)["Reshape"]
    # Only what leaves the file has torch's shape; a sigmoid is not one that works on pixels.
    assert reshapes == (3 if isinstance(activation, nn.Sigmoid) else 1)
