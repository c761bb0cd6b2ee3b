"""Boundaries of fewer than 8 bits: the same integers, all in range, in every artifact."""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, fx
from torch.ao.quantization.observer import HistogramObserver, MinMaxObserver
from torch.jit.mobile import _load_for_lite_interpreter

from export import fx_graph, torchscript
from export.boundary_bits import BoundaryMseObserver, clamp_ends
from export.onnx_qdq import write_qdq_onnx
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.recipe import ExportRecipe
from tests.export.edges import batch, quantized, split

LOW: tuple[Any, ...] = (6, 4, 3, 2, 1)
EDGES = (
    ("tiny", "block1"),
    ("tiny", "pool"),
    ("mobilenet_v3_small", "features.3"),
    ("shufflenet_v2_x1_0", "stage3.0"),
)
CASES = [
    (*edge, bits) for edge in EDGES for bits in (LOW if edge == ("tiny", "block1") else (4, 1))
]

each_case = pytest.mark.parametrize(("name", "cut", "bits"), CASES)


@functools.cache
def narrow(name: str, cut: str, bits: Any) -> QuantizedEdge:
    recipe = ExportRecipe(activation_observer="min-max", boundary_bits=bits)
    return quantize_edge(split(name, cut).edge, [batch()], recipe)


def run(module: Any, x: Tensor) -> Tensor:
    with qnnpack_engine(), torch.no_grad():
        result: Tensor = module(x)
    return result


def outside() -> Tensor:
    """Return images far beyond those of the calibration: every end of the range is met."""
    return batch() * 4


def dequantized(edge: QuantizedEdge, q: Tensor) -> Tensor:
    return (q.float() - edge.wire_zero_point) * torch.tensor(edge.wire_scale, dtype=torch.float32)


def sqnr_db(signal: Tensor, noisy: Tensor) -> float:
    return float(10 * torch.log10(signal.pow(2).sum() / (signal - noisy).pow(2).sum()))


@each_case
def test_the_wire_reaches_the_end_of_its_range_and_never_leaves_it(
    name: str, cut: str, bits: int
) -> None:
    edge = narrow(name, cut, bits)
    sent = run(edge.wire, outside())
    assert sent.dtype == torch.uint8
    assert int(sent.max()) == 2**bits - 1
    assert 0 <= edge.wire_zero_point < 2**bits


@each_case
def test_the_float_boundary_is_the_wire_dequantized(name: str, cut: str, bits: int) -> None:
    edge = narrow(name, cut, bits)
    assert torch.equal(
        dequantized(edge, run(edge.wire, outside())), run(edge.float_boundary, outside())
    )


@each_case
def test_it_is_the_8_bit_boundary_rounded_once_more(name: str, cut: str, bits: int) -> None:
    edge, whole = narrow(name, cut, bits), quantized(name, cut)
    real = run(whole.float_boundary, outside()).double()
    steps = (real / edge.wire_scale).round() + edge.wire_zero_point
    expected = steps.clamp(0, 2**bits - 1)
    assert torch.equal(run(edge.wire, outside()).double(), expected)


@each_case
def test_nothing_more_stays_in_float(name: str, cut: str, bits: int) -> None:
    edge = narrow(name, cut, bits)
    assert edge.float_nodes == quantized(name, cut).float_nodes
    assert edge.qparams[-1].scale == edge.wire_scale


@each_case
def test_lite_files_and_the_stored_graph_are_eager_bit_for_bit(
    tmp_path: Path, name: str, cut: str, bits: int
) -> None:
    edge = narrow(name, cut, bits)
    for kind, module in (("float", edge.float_boundary), ("wire", edge.wire)):
        path = tmp_path / f"{kind}.ptl"
        with qnnpack_engine():
            torchscript.write_lite(module, path)
            loaded = _load_for_lite_interpreter(str(path))  # type: ignore[no-untyped-call]
        assert torch.equal(run(loaded, outside()), run(module, outside()))
    graph, tensors = tmp_path / "g.json", tmp_path / "g.safetensors"
    fx_graph.save_graph(edge.float_boundary, graph, tensors)
    assert torch.equal(
        run(fx_graph.load_graph(graph, tensors), outside()), run(edge.float_boundary, outside())
    )


def run_onnx(path: Path, *, optimized: bool) -> Any:
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": outside().numpy()})[0]


@pytest.mark.parametrize("optimized", [False, True])
@each_case
def test_onnx_stays_in_range_and_ends_alike(
    tmp_path: Path, name: str, cut: str, bits: int, optimized: bool
) -> None:
    edge = narrow(name, cut, bits)
    found = {}
    for kind in ("float", "wire"):
        path = tmp_path / f"{kind}.onnx"
        write_qdq_onnx(edge.float_boundary, (3, 32, 32), path, opset=17, boundary=kind)
        found[kind] = torch.from_numpy(run_onnx(path, optimized=optimized))
    assert int(found["wire"].max()) == 2**bits - 1
    assert torch.equal(dequantized(edge, found["wire"]), found["float"])
    same = (found["wire"] == run(edge.wire, outside())).double().mean()
    assert same >= 0.99


@pytest.mark.parametrize("kind", ["float", "wire"])
def test_without_its_clip_the_onnx_file_leaves_the_range(tmp_path: Path, kind: Any) -> None:
    """The negative control: the images above do need the clamp."""
    edge = narrow("tiny", "block1", 2)
    path = tmp_path / "edge.onnx"
    write_qdq_onnx(edge.float_boundary, (3, 32, 32), path, opset=17, boundary=kind)
    model = onnx.load(path)
    clips = [n for n in model.graph.node if n.op_type == "Clip"]
    bounds = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert int(bounds[clips[-1].input[2]]) == 3
    for node in model.graph.node:
        node.input[:] = [clips[-1].input[0] if n == clips[-1].output[0] else n for n in node.input]
    model.graph.node.remove(clips[-1])
    onnx.save(model, path)
    out = torch.from_numpy(run_onnx(path, optimized=False))
    steps = out if kind == "wire" else (out / edge.wire_scale).round() + edge.wire_zero_point
    assert int(steps.max()) > 3


def test_8_bits_add_nothing() -> None:
    default = quantized("tiny", "block1")
    eight = narrow("tiny", "block1", 8)
    assert [n.name for n in eight.float_boundary.graph.nodes] == [
        n.name for n in default.float_boundary.graph.nodes
    ]
    assert eight.wire_scale == default.wire_scale


def test_more_bits_are_nearer_to_the_8_bit_boundary() -> None:
    real = run(quantized("mobilenet_v3_small", "features.3").float_boundary, batch())
    sqnr = [
        sqnr_db(real, run(narrow("mobilenet_v3_small", "features.3", b).float_boundary, batch()))
        for b in (1, 4)
    ]
    assert sqnr[0] > 1.5
    assert sqnr[1] > sqnr[0] + 10


@given(
    st.floats(2.0**-100, 2.0**100, width=32),
    st.sampled_from([1, 2, 3, 4, 6, 8]),
    st.data(),
)
@settings(max_examples=300, deadline=None)
def test_the_clamps_ends_are_the_ends_of_the_range(
    scale: float, bits: int, data: st.DataObject
) -> None:
    zero_point = data.draw(st.integers(0, 2**bits - 1))
    every = torch._make_per_tensor_quantized_tensor(
        torch.arange(256, dtype=torch.uint8), scale, zero_point
    )
    with qnnpack_engine():
        clamped = torch.clamp(every, *clamp_ends(scale, zero_point, bits)).int_repr()
    assert clamped.tolist() == [min(q, 2**bits - 1) for q in range(256)]


# --- the observer --------------------------------------------------------------------------------


def observed(x: Tensor, bits: int) -> tuple[float, int]:
    observer = BoundaryMseObserver(0, 2**bits - 1)
    for part in torch.split(x, 7):
        assert observer(part) is part
    scale, zero_point = observer.calculate_qparams()
    assert scale.dtype == torch.float32
    return float(scale), int(zero_point)


def error(x: Tensor, scale: float, zero_point: int, bits: int) -> float:
    steps = ((x.double() / scale).round() + zero_point).clamp(0, 2**bits - 1) - zero_point
    return float((x.double() - scale * steps).pow(2).sum())


def on_8_bits(seed: int, shift: float) -> Tensor:
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)).pow(3) + shift
    return torch.fake_quantize_per_tensor_affine(x, float(x.abs().max()) / 127, 128, 0, 255)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 2.0])
def test_no_scale_of_a_fine_grid_is_better(bits: int, shift: float) -> None:
    x = on_8_bits(0, shift)
    found = error(x, *observed(x, bits), bits)
    grid = torch.linspace(0.002, 1, 1500, dtype=torch.float64) * float(x.abs().max()) * 1.05
    best = min(error(x, float(s), z, bits) for s in grid for z in range(2**bits))
    assert found <= best * (1 + 1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_torchs_observers_are_no_better(bits: int) -> None:
    x = on_8_bits(1, 0.0)
    found = error(x, *observed(x, bits), bits)
    for kind in (MinMaxObserver, HistogramObserver):
        other = kind(dtype=torch.quint8, quant_min=0, quant_max=2**bits - 1)
        other(x)
        scale, zero_point = other.calculate_qparams()
        assert found < 0.9 * error(x, float(scale), int(zero_point), bits)


def test_values_on_a_narrow_grid_are_kept_exactly() -> None:
    x = 0.25 * (torch.arange(16).repeat(5) - 5)
    scale, zero_point = observed(x, 4)
    assert (scale, zero_point) == (0.25, 5)


def test_the_order_and_the_batches_do_not_matter() -> None:
    x = on_8_bits(2, 0.5)
    assert observed(x, 3) == observed(x.flip(0), 3) == observed(torch.sort(x).values, 3)


@pytest.mark.parametrize("x", [torch.zeros(9), torch.zeros(0)])
def test_nothing_but_zeros_gives_torchs_own_answer(x: Tensor) -> None:
    assert observed(x, 2) == (1.0, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_values_of_one_sign_get_all_steps(sign: int) -> None:
    x = sign * torch.linspace(0, 1, 200)
    _, zero_point = observed(x, 2)
    assert zero_point == (0 if sign == 1 else 3)


def test_the_last_nodes_are_what_the_page_says() -> None:
    nodes = list(narrow("tiny", "block1", 4).float_boundary.graph.nodes)[-5:]
    assert [n.target for n in nodes] == [
        torch.quantize_per_tensor,
        "contiguous",
        torch.clamp,
        "dequantize",
        "output",
    ]
    assert all(operator.is_(a.args[0], b) for a, b in zip(nodes[1:4], nodes[:3], strict=True))
    assert isinstance(nodes[0].args[0], fx.Node)
    assert nodes[0].args[0].target == "dequantize"
    assert np.float32(nodes[0].args[1]) == nodes[0].args[1]
