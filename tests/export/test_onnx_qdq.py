"""A whole edge as QDQ ONNX: FX's own scales, equal outputs, equal bytes, integer kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, fx, nn

from export.onnx_qdq import write_qdq_onnx
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.errors import ExportError, OverwriteError
from records.recipe import ExportRecipe
from runtime_check.ort_graph import quantized_convolutions
from tests.export.edges import NETWORKS, batch, quantized

SHAPE = (3, 32, 32)


def written(
    folder: Path, edge: QuantizedEdge, boundary: Literal["float", "wire"] = "wire", opset: int = 17
) -> Path:
    path = folder / f"{boundary}{opset}.onnx"
    write_qdq_onnx(edge.float_boundary, SHAPE, path, opset=opset, boundary=boundary)
    return path


def session(path: Path, *, optimized: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, images: Tensor, *, optimized: bool = False) -> Any:
    found = session(path, optimized=optimized).run(["boundary"], {"input": images.numpy()})
    return np.asarray(found[0])


def eager(edge: QuantizedEdge, images: Tensor, *, wire: bool = True) -> Any:
    with qnnpack_engine(), torch.no_grad():
        return (edge.wire if wire else edge.float_boundary)(images).numpy()


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.mark.parametrize(("name", "cut"), NETWORKS)
def test_every_network_in_integers_as_eager_int8(name: str, cut: str, tmp_path: Path) -> None:
    edge = quantized(name, cut)
    path = written(tmp_path, edge)
    fusion = quantized_convolutions(path)
    # Linear layers are written as convolutions of one pixel.
    kinds = (torch.ao.nn.quantized.Conv2d, torch.ao.nn.quantized.Linear)
    wanted = sum(isinstance(m, kinds) for m in edge.float_boundary.modules())
    assert fusion.total == wanted > 0
    assert fusion.complete, fusion
    expected = eager(edge, batch()).astype(int)
    for optimized in (False, True):
        found = run(path, batch(), optimized=optimized)
        assert found.dtype == np.uint8
        difference = np.abs(found.astype(int) - expected).reshape(len(expected), -1)
        # A tie that float32 broke spreads over what follows in its image, and over no other.
        assert np.mean(difference.max(axis=1) == 0) >= 0.85
        assert np.mean(difference <= 1) >= (0.99 if optimized else 0.98)


@pytest.mark.parametrize("weights", ["per-channel", "per-tensor"])
@pytest.mark.parametrize(("name", "cut"), [("tiny", "pool"), ("mobilenet_v2", "features.3")])
def test_scales_and_weights_are_fx_own(
    name: str, cut: str, weights: Literal["per-channel", "per-tensor"], tmp_path: Path
) -> None:
    edge = quantized(name, cut, weights)
    model = onnx.load_model(written(tmp_path, edge))
    values = constants(model)
    own = {q.tensor: (np.float32(q.scale), q.zero_point) for q in edge.qparams}
    sent = next(n for n in reversed(list(edge.float_boundary.graph.nodes)) if n.op != "output")
    names = {"boundary": sent.args[0].name}
    seen = 0
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and names.get(node.output[0], node.output[0]) in own:
            scale, point = (values[name] for name in node.input[1:])
            assert (scale.shape, scale.dtype, point.dtype) == ((), np.float32, np.uint8)
            assert (scale, point) == own[names.get(node.output[0], node.output[0])]
            seen += 1
    assert seen > 5
    behind = {n.output[0]: n.input for n in model.graph.node if n.op_type == "DequantizeLinear"}
    scale_of = {stored[0]: stored[1] for stored in behind.values()}
    pairs = [n.input[1:] for n in model.graph.node if n.op_type == "Conv"]
    bias_of = {behind[weight][0]: behind[bias][0] for weight, bias in pairs}
    for node in edge.float_boundary.graph.nodes:
        module = (
            edge.float_boundary.get_submodule(node.target) if node.op == "call_module" else None
        )
        if isinstance(module, torch.ao.nn.quantized.Conv2d):
            weight, bias = module._packed_params.unpack()
            signed = f"{node.name}_weight_int8"
            name = signed if signed in values else f"{node.name}_weight_uint8"
            stored = values[name].astype(np.int16) - (0 if name == signed else 128)
            times = assert_same_weights(stored, weight.int_repr().numpy())
            fine = weight.qscheme() == torch.per_channel_affine
            scales = weight.q_per_channel_scales().numpy() if fine else np.array(weight.q_scale())
            scales = np.tile(scales, times) if fine else scales
            np.testing.assert_array_equal(
                values[scale_of[name]], scales.astype(np.float32), strict=True
            )
            units = scales * float(own[node.args[0].name][0])
            reals = np.tile(bias.detach().double().numpy(), times)
            stored = values[bias_of[name]]
            assert stored.dtype == np.int32
            # torch divides in float32, some CPUs by a product with the rounded inverse.
            assert np.all(np.abs(stored - reals / units) <= 0.5001 + np.abs(stored) * 2.0**-22)


def assert_same_weights(stored: np.ndarray, integers: np.ndarray) -> int:
    """Require the same weights, however they are written; return how often they are there."""
    if stored.shape == integers.shape:
        np.testing.assert_array_equal(stored, integers)
        return 1
    # The convolution that reads the image: its rows among its channels, its pixels in pairs.
    rows = integers.reshape(len(integers), -1, 1, integers.shape[3])
    times, width = len(stored) // len(rows), rows.shape[3]
    for index, part in enumerate(np.split(stored, times)):
        start = index * (part.shape[3] - width)
        np.testing.assert_array_equal(part[..., start : start + width], rows)
        assert np.count_nonzero(part) == np.count_nonzero(rows)
    return times


def test_float_boundary_is_the_dequantized_wire(tmp_path: Path) -> None:
    edge = quantized("tiny", "block3")
    real, sent = (run(written(tmp_path, edge, b), batch()) for b in ("float", "wire"))
    assert real.dtype == np.float32
    scale = np.float32(edge.wire_scale)
    expected = scale * (sent.astype(np.float32) - np.float32(edge.wire_zero_point))
    np.testing.assert_array_equal(real, expected)


@pytest.mark.parametrize(
    ("name", "cut"),
    [("mobilenet_v2", "features.0"), ("shufflenet_v2_x1_0", "stage2"), ("tiny", "pool")],
)
def test_wire_ends_with_the_wire_scale(name: str, cut: str, tmp_path: Path) -> None:
    """Also where the last operator clamps, moves or averages integers."""
    edge = quantized(name, cut)
    model = onnx.load_model(written(tmp_path, edge))
    last = next(n for n in model.graph.node if "boundary" in n.output)
    values = constants(model)
    assert last.op_type == "QuantizeLinear"
    assert values[last.input[1]] == np.float32(edge.wire_scale)
    assert values[last.input[2]] == edge.wire_zero_point


@pytest.mark.parametrize("boundary", ["float", "wire"])
@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_opsets(boundary: Literal["float", "wire"], opset: int, tmp_path: Path) -> None:
    edge = quantized("tiny", "block3")
    path = written(tmp_path, edge, boundary, opset)
    model = onnx.load_model(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    # ONNX Runtime 1.20, the oldest that the core install allows, reads IR 10.
    assert model.ir_version <= 10
    found = run(path, batch()).astype(np.float64)
    difference = np.abs(found - eager(edge, batch(), wire=boundary == "wire"))
    step = 1.0 if boundary == "wire" else edge.wire_scale
    assert np.mean(difference <= 1.01 * step) >= 0.99


def test_batch_axis_is_dynamic(tmp_path: Path) -> None:
    edge = quantized("shufflenet_v2_x1_0", "stage3.0")
    path = written(tmp_path, edge)
    whole = run(path, batch())
    for count in (1, 7):
        np.testing.assert_array_equal(run(path, batch()[:count]), whole[:count])
    ends = session(path, optimized=False)
    assert [d.shape[0] for d in (*ends.get_inputs(), *ends.get_outputs())] == ["N", "N"]


def test_same_graph_same_bytes_and_no_path(tmp_path: Path) -> None:
    edge = quantized("mobilenet_v3_small", "features.3")
    (tmp_path / "again").mkdir()
    first, second = written(tmp_path, edge), written(tmp_path / "again", edge)
    data = first.read_bytes()
    assert data == second.read_bytes()
    for part in (str(tmp_path), str(Path.home()), str(Path(__file__).parents[2]), ".py", "torch"):
        assert part.encode() not in data
    model = onnx.load_model(first)
    assert (model.producer_name, model.producer_version) == ("edgeveil", "")
    assert not model.metadata_props


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    edge = quantized("tiny", "block1")
    path = written(tmp_path, edge)
    before = path.read_bytes()
    with pytest.raises(OverwriteError):
        written(tmp_path, edge)
    assert path.read_bytes() == before


def small(*modules: nn.Module) -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *modules)
    return fx.symbolic_trace(network.eval())


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Softplus(), ["_1", "Softplus", "no writer"]),
        (Turned(), ["flatten", "batch"]),
        (nn.AdaptiveAvgPool2d(5), ["_1", "32", "5"]),
        (nn.Upsample(scale_factor=2, mode="bilinear"), ["nearest"]),
        (nn.AvgPool2d(3, ceil_mode=True), ["ceil_mode"]),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(
    module: nn.Module, words: list[str], tmp_path: Path
) -> None:
    edge = quantize_edge(small(module), [batch()], ExportRecipe(activation_observer="min-max"))
    with pytest.raises(ExportError) as caught:
        written(tmp_path, edge)
    assert all(word in str(caught.value) for word in words), caught.value
    assert list(tmp_path.iterdir()) == []


def test_a_weight_with_a_zero_point_is_refused(tmp_path: Path) -> None:
    recipe = ExportRecipe(activation_observer="min-max", weight_observer="per-tensor")
    edge = quantize_edge(small(), [batch()], recipe)
    module: Any = edge.float_boundary.get_submodule("0")
    weight = torch.quantize_per_tensor(module.weight().dequantize(), 0.01, 3, torch.qint8)
    with qnnpack_engine():
        module.set_weight_bias(weight, module.bias())
    with pytest.raises(ExportError, match="zero point"):
        written(tmp_path, edge)


def test_a_graph_that_ends_in_float_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dequantize"):
        write_qdq_onnx(small(), SHAPE, tmp_path / "x.onnx", opset=17, boundary="float")


class Rounded(nn.Module):
    """Quantize and dequantize, nothing else."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.scale, self.zero_point = scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        q = torch.quantize_per_tensor(x, self.scale, self.zero_point, torch.quint8)
        return q.dequantize()


@given(scale=st.floats(2**-20, 2**13, width=32), zero_point=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_any_scale_and_zero_point_stand_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, scale: float, zero_point: int
) -> None:
    module = fx.symbolic_trace(Rounded(scale, zero_point))
    path = tmp_path_factory.mktemp("rounded") / "x.onnx"
    write_qdq_onnx(module, (50,), path, opset=17, boundary="wire")
    model = onnx.load_model(path)
    (node,) = model.graph.node
    values = constants(model)
    assert values[node.input[1]] == np.float32(scale)
    assert values[node.input[2]] == zero_point
    # Between the ties, where torch multiplies by 1/scale and ONNX divides by it.
    steps = (
        torch.arange(300)[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
        - zero_point
    ).reshape(6, 50)
    images = ((steps + 0.25) * scale).float()
    expected = torch.quantize_per_tensor(images, scale, zero_point, torch.quint8).int_repr()
    np.testing.assert_array_equal(run(path, images), expected.numpy())


def test_the_file_runs_where_int8_weights_are_made_uint8(tmp_path: Path) -> None:
    # Layers of as many channels have equal zero points, which must not be one initializer.
    edge = quantized("tiny", "classifier")
    path = written(tmp_path, edge)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options)
    found = session.run(None, {"input": batch().numpy()})[0]
    assert np.mean(np.abs(found.astype(int) - eager(edge, batch())) <= 1) >= 0.99


def test_equal_constants_are_stored_once_and_nodes_are_numbered(tmp_path: Path) -> None:
    model = onnx.load_model(written(tmp_path, quantized("tiny", "pool")))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 5
    small = [t for t in model.graph.initializer if t.data_type != onnx.TensorProto.INT8]
    contents = [(t.data_type, tuple(t.dims), t.raw_data) for t in small]
    assert len(set(contents)) == len(contents)
    # The units of a bias are a product of constants: only per-tensor weights store them.
    assert not any("bias_scale" in t.name for t in model.graph.initializer)
