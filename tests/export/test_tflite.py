"""The ``.tflite`` of an edge in LiteRT itself, against eager FX INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import fx, nn

from export.layer_reader import read_layers
from export.layers import Grid, Layer, LayerGraph, Value
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.errors import ExportError, OverwriteError
from records.recipe import ExportRecipe
from tests.export import edges
from tests.export.test_onnx_qdq_ops import Applied, TwoBranches, chunked, sequential, shuffled

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

from ai_edge_litert.interpreter import Interpreter

from export.tflite import tflite_bytes, write_tflite

SHAPE = (3, 32, 32)
#: Networks whose every value is the same; the others join or pool on several grids.
IDENTICAL = (
    ("tiny", "pool"),
    ("mobilenet_v3_small", "avgpool"),
    ("mobilenet_v3_large", "features.6"),
    ("mobilenet_v2", "features.3"),
)
OTHERS = (("shufflenet_v2_x1_0", "stage3.0"), ("resnet18", "layer2.0"))

#: What XNNPACK has an integer kernel for that rounds as QNNPACK does, or that rounds nothing.
OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "stride groups": lambda: nn.Sequential(nn.Conv2d(3, 9, 3, 2, 2, 2, groups=3)),
    "no bias": lambda: nn.Sequential(nn.Conv2d(3, 4, 5, 1, (1, 2), bias=False)),
    "relu": lambda: sequential(nn.BatchNorm2d(8), nn.ReLU()),
    "relu alone": lambda: Applied(torch.relu),
    "relu6": lambda: sequential(nn.ReLU6()),
    "clamp": lambda: Applied(lambda x: torch.clamp(x, -0.2, 0.6)),
    "hardswish": lambda: sequential(nn.Hardswish()),
    "hardsigmoid": lambda: sequential(nn.Hardsigmoid()),
    "sigmoid": lambda: sequential(nn.Sigmoid()),
    "tanh": lambda: sequential(nn.Tanh()),
    "leaky relu": lambda: sequential(nn.LeakyReLU(0.1)),
    "max pool": lambda: sequential(nn.MaxPool2d(3, 2, 1)),
    "average pool": lambda: sequential(nn.AvgPool2d(2)),
    "average pool padded": lambda: sequential(nn.AvgPool2d(3, 2, 1)),
    "adaptive windows": lambda: sequential(nn.AdaptiveAvgPool2d(8)),
    "linear": lambda: sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    "permute": lambda: Applied(lambda x: x.permute(0, 2, 3, 1)),
    "transpose": lambda: Applied(lambda x: torch.transpose(x, 1, -1)),
    "shuffle": lambda: Applied(shuffled),
    "chunk and cat": lambda: Applied(chunked),
    "add": lambda: TwoBranches(torch.add),
    "mul": lambda: TwoBranches(torch.mul),
}


def run(data: bytes, images: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    interpreter = Interpreter(model_content=data, num_threads=1)
    source = interpreter.get_input_details()[0]
    assert source["name"] == "input"
    interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    output = interpreter.get_output_details()[0]
    assert output["name"] == "boundary"
    found: npt.NDArray[Any] = interpreter.get_tensor(output["index"])
    return found


def eager(quantized: QuantizedEdge, images: torch.Tensor) -> npt.NDArray[np.uint8]:
    with qnnpack_engine(), torch.inference_mode():
        wire: npt.NDArray[np.uint8] = quantized.wire(images).numpy()
    return wire


def distances(
    found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    return np.abs(found.astype(np.int64) - expected.astype(np.int64))


@pytest.mark.parametrize(("name", "cut"), IDENTICAL)
def test_int8_is_eager_int8_bit_for_bit(name: str, cut: str) -> None:
    quantized, images = edges.quantized(name, cut), edges.batch()
    layers = read_layers(quantized.float_boundary, SHAPE)
    found = run(tflite_bytes(layers, boundary="wire"), images.numpy())
    assert not distances(found, eager(quantized, images)).any()


@pytest.mark.parametrize(("name", "cut"), OTHERS)
def test_what_joins_other_grids_differs_in_few_steps(name: str, cut: str) -> None:
    quantized, images = edges.quantized(name, cut), edges.batch()
    layers = read_layers(quantized.float_boundary, SHAPE)
    found = run(tflite_bytes(layers, boundary="wire"), images.numpy())
    assert (distances(found, eager(quantized, images)) <= 2).mean() > 0.98


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_within_one_step(operator: str) -> None:
    torch.manual_seed(0)
    images = edges.batch(16)
    edge = fx.symbolic_trace(OPERATORS[operator]().eval())
    quantized = quantize_edge(edge, [images], ExportRecipe(activation_observer="min-max"))
    layers = read_layers(quantized.float_boundary, (3, 16, 16))
    found = run(tflite_bytes(layers, boundary="wire"), images.numpy())
    off = distances(found, eager(quantized, images))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.002


@pytest.mark.parametrize(("name", "cut"), [*IDENTICAL, *OTHERS])
def test_fp32_computes_the_same_network(name: str, cut: str) -> None:
    edge, images = edges.split(name, cut).edge, edges.batch()
    found = run(tflite_bytes(read_layers(edge, SHAPE), boundary="float"), images.numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(found, edge(images).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_float_boundary_is_the_wire_dequantized(batch: int) -> None:
    quantized, images = edges.quantized("tiny", "block3"), edges.batch()[:batch].numpy()
    layers = read_layers(quantized.float_boundary, SHAPE)
    wire = run(tflite_bytes(layers, boundary="wire"), images)
    real = run(tflite_bytes(layers, boundary="float"), images)
    steps = wire.astype(np.float32) - np.float32(quantized.wire_zero_point)
    np.testing.assert_array_equal(real, steps * np.float32(quantized.wire_scale))


@pytest.mark.parametrize("sides", [(2, 2), (2, 3), (3, 3), (4, 4), (4, 6)])
@pytest.mark.parametrize("zero_point", [0, 13, 14, 255])
def test_a_mean_rounds_ties_as_qnnpack_does(sides: tuple[int, int], zero_point: int) -> None:
    grid = Grid(float(np.float32(0.0371)), zero_point)
    generator = torch.Generator().manual_seed(zero_point)
    steps = torch.randint(0, 256, (16, 8, *sides), generator=generator, dtype=torch.uint8)
    with qnnpack_engine():
        stored = torch._make_per_tensor_quantized_tensor(steps, grid.scale, zero_point)
        expected = nn.functional.adaptive_avg_pool2d(stored, 1).int_repr().numpy()
    image, source = Value("x", (8, *sides)), Value("s", (8, *sides), grid)
    mean = Value("m", (8, 1, 1), grid)
    layers = (
        Layer("quantize", "quantize", (image,), source),
        Layer("mean", "mean", (source,), mean, {"keep": True}),
    )
    data = tflite_bytes(LayerGraph(image, layers, mean), boundary="wire")
    found = run(data, stored.dequantize().numpy())
    assert not distances(found, expected).any()


def test_the_same_layers_give_the_same_bytes() -> None:
    quantized = edges.quantized("tiny", "block1")
    one, two = (
        tflite_bytes(read_layers(quantized.float_boundary, SHAPE), boundary="wire")
        for _ in range(2)
    )
    assert one == two


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    layers = read_layers(edges.split("tiny", "block1").edge, SHAPE)
    write_tflite(layers, tmp_path / "edge.tflite", boundary="float")
    with pytest.raises(OverwriteError):
        write_tflite(layers, tmp_path / "edge.tflite", boundary="float")


def test_an_fp32_edge_has_no_wire() -> None:
    with pytest.raises(ExportError, match="no wire"):
        tflite_bytes(read_layers(edges.split("tiny", "block1").edge, SHAPE), boundary="wire")
