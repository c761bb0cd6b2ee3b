"""Every operator that has a writer: FX's own integers against ONNX Runtime's, one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from export.onnx_qdq import write_qdq_onnx
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe

SHAPE = (3, 16, 16)
#: Opset, and whether ONNX Runtime optimizes.
MODES = ((17, False), (17, True), (21, False))


class Applied(nn.Module):
    """A convolution, then any traced function of its output; both are quantized."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


class Functional(nn.Module):
    """Convolution and linear layer as functions of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3) / 5)
        self.bias = nn.Parameter(torch.randn(4) / 5)
        self.matrix = nn.Parameter(torch.randn(6, 4) / 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(functional.conv2d(x, self.kernel, self.bias, (2, 2), (1, 1), (1, 1), 1))
        return functional.linear(x.mean((2, 3)), self.matrix)


class TwoBranches(nn.Module):
    """Two convolutions joined by a function of both."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, 2, 1)
        self.right = nn.Conv2d(3, 8, 3, 2, 1)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.left(x), self.right(x))


def shuffled(x: Tensor) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
    return x.view(batch, -1, height, width)


def chunked(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return torch.cat((functional.relu(right), left), dim=1)


def sequential(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *modules)


#: Everything that only moves, clamps, averages or pools integers: no rounding of its own.
EXACT: dict[str, Callable[[], nn.Module]] = {
    "conv stride groups": lambda: nn.Sequential(nn.Conv2d(3, 9, 3, 2, 2, 2, groups=3)),
    "conv no bias": lambda: nn.Sequential(nn.Conv2d(3, 4, 5, 1, (1, 2), bias=False)),
    "conv norm relu": lambda: sequential(nn.BatchNorm2d(8), nn.ReLU()),
    "relu": lambda: Applied(lambda x: functional.relu(x.flatten(1)), 4),
    "relu6 module": lambda: sequential(nn.ReLU6()),
    "relu6 function": lambda: Applied(functional.relu6),
    "hardtanh": lambda: sequential(nn.Hardtanh(-0.3, 0.4)),
    "hardtanh function": lambda: Applied(lambda x: functional.hardtanh(x, -0.25, 0.5)),
    "clamp": lambda: Applied(lambda x: torch.clamp(x, -0.2, 0.6)),
    "clamp method": lambda: Applied(lambda x: x.clamp(min=-0.1, max=0.3)),
    "max pool": lambda: sequential(nn.MaxPool2d(3, 2, 1)),
    "max pool function": lambda: Applied(lambda x: functional.max_pool2d(x, 2)),
    "average pool": lambda: sequential(nn.AvgPool2d(2)),
    "average pool padded": lambda: sequential(nn.AvgPool2d(3, 2, 1)),
    "global average": lambda: sequential(nn.AdaptiveAvgPool2d(1)),
    "global average function": lambda: Applied(lambda x: functional.adaptive_avg_pool2d(x, (1, 1))),
    "adaptive windows": lambda: sequential(nn.AdaptiveAvgPool2d(4)),
    "mean": lambda: Applied(lambda x: x.mean([2, 3])),
    "mean keep": lambda: Applied(lambda x: torch.mean(x, dim=(-2, -1), keepdim=True)),
    "flatten": lambda: sequential(nn.Flatten()),
    "reshape": lambda: Applied(lambda x: x.reshape(-1, 4, 2 * 16 * 16)),
    "squeeze": lambda: Applied(lambda x: functional.adaptive_avg_pool2d(x, 1).squeeze(3)),
    "permute": lambda: Applied(lambda x: x.permute(0, 2, 3, 1)),
    "transpose": lambda: Applied(lambda x: torch.transpose(x, 1, -1)),
    "slice": lambda: Applied(lambda x: x[:, 2:7:2, ..., 1:-1]),
    "one channel": lambda: Applied(lambda x: x[:, -1]),
    "shuffle by hand": lambda: Applied(shuffled),
    "shuffle module": lambda: sequential(nn.ChannelShuffle(4)),
    "chunk and cat": lambda: Applied(chunked),
    "split": lambda: Applied(lambda x: torch.split(x, [2, 5, 1], dim=1)[1]),
    "dropout identity": lambda: sequential(nn.Dropout(0.5), nn.Identity()),
    "stochastic depth": lambda: sequential(StochasticDepth(0.5, "row")),
    "nearest": lambda: sequential(nn.Upsample(scale_factor=2)),
    "nearest function": lambda: Applied(lambda x: functional.interpolate(x, size=(32, 48))),
    "cat of two scales": lambda: TwoBranches(lambda a, b: torch.cat([a, 3 * b], 1)),
    "zero pad": lambda: Applied(lambda x: functional.pad(x, (1, 2, 0, 3))),
}
#: Operators that compute: their results may lie on a tie that float32 breaks otherwise.
ROUNDED: dict[str, Callable[[], nn.Module]] = {
    "hardswish": lambda: sequential(nn.Hardswish()),
    "hardswish function": lambda: Applied(functional.hardswish),
    "hardsigmoid": lambda: sequential(nn.Hardsigmoid()),
    "sigmoid": lambda: sequential(nn.Sigmoid()),
    "sigmoid method": lambda: Applied(lambda x: x.sigmoid()),
    "tanh": lambda: Applied(torch.tanh),
    "elu": lambda: sequential(nn.ELU(0.7)),
    "elu function": lambda: Applied(lambda x: functional.elu(x, alpha=0.7)),
    "leaky relu": lambda: sequential(nn.LeakyReLU(0.2)),
    "leaky relu function": lambda: Applied(lambda x: functional.leaky_relu(x, 0.2)),
    "softmax": lambda: sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(dim=1)),
    "silu stays float": lambda: sequential(nn.SiLU()),
    "gelu stays float": lambda: sequential(nn.GELU()),
    "mean of other axes": lambda: Applied(lambda x: x.mean(1)),
    "add": lambda: TwoBranches(lambda a, b: a + b),
    "add relu": lambda: TwoBranches(lambda a, b: torch.relu(a + b)),
    "torch.add": lambda: TwoBranches(torch.add),
    "mul": lambda: TwoBranches(lambda a, b: a * b),
    "mul relu": lambda: TwoBranches(lambda a, b: functional.relu(a * b)),
    "add number": lambda: Applied(lambda x: x + 0.75),
    "mul number": lambda: Applied(lambda x: x * 0.5),
    "gate": lambda: Applied(lambda x: functional.hardsigmoid(x.mean((2, 3), keepdim=True)) * x),
    "batch norm alone": lambda: Applied(nn.BatchNorm2d(8)),
    "batch norm relu": lambda: Applied(
        nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU())
    ),
    "linear": lambda: sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
    "linear relu": lambda: sequential(nn.Flatten(), nn.Linear(2048, 5), nn.ReLU()),
    "linear of three axes": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(256, 6)),
    "functional": Functional,
    "transposed conv": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1)),
    "layer norm": lambda: Applied(nn.LayerNorm([16, 16])),
    "sub stays float": lambda: TwoBranches(lambda a, b: a - b),
}


def images(count: int, seed: int = 0) -> Tensor:
    noise = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(noise, size=SHAPE[1:], mode="bilinear")


def quantized(module: nn.Module) -> QuantizedEdge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    traced = fx.symbolic_trace(module.eval())
    return quantize_edge(traced, [images(32)], ExportRecipe(activation_observer="min-max"))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


def run_onnx(path: Path, batch: Tensor, *, optimized: bool) -> np.ndarray[Any, Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["boundary"], {"input": batch.numpy()})[0])


def differences(edge: QuantizedEdge, folder: Path, opset: int, *, optimized: bool) -> Any:
    path = folder / f"edge{opset}.onnx"
    if not path.exists():
        write_qdq_onnx(edge.float_boundary, SHAPE, path, opset=opset, boundary="wire")
    batch = images(5, seed=1)
    with qnnpack_engine(), torch.no_grad():
        expected = edge.wire(batch).numpy()
    found = run_onnx(path, batch, optimized=optimized)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    # A test on a constant would pass whatever the operator did.
    assert len(np.unique(expected)) > 3
    return np.abs(found.astype(int) - expected.astype(int))


@pytest.mark.parametrize("name", EXACT)
def test_integers_are_moved_without_rounding(name: str, tmp_path: Path) -> None:
    edge = quantized(seeded(EXACT[name]))
    for opset, optimized in MODES:
        found = differences(edge, tmp_path, opset, optimized=optimized)
        # Only the convolution before may meet a tie.
        assert found.max() <= 1
        assert np.mean(found > 0) <= 1e-3


@pytest.mark.parametrize("name", ROUNDED)
def test_results_are_within_one_lsb(name: str, tmp_path: Path) -> None:
    edge = quantized(seeded(ROUNDED[name]))
    for opset, optimized in MODES:
        found = differences(edge, tmp_path, opset, optimized=optimized)
        assert found.max() <= 1
        assert np.mean(found > 0) <= 0.03
