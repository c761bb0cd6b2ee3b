"""The differentiable edge computes what the runtimes compute, and its gradients are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from attack.differentiable import DifferentiableEdge
from attack.differentiable_operators import clip, quantize
from baseline.preprocessing import preprocess
from export.bundle import Bundle
from records.errors import UnsupportedHereError
from runtime_check.runtime import boundary_features, runtime_for
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, npt.NDArray[Any]]
RNG = np.random.default_rng(0)


def floats(*shape: int) -> npt.NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def integers(*values: int) -> npt.NDArray[np.int64]:
    return np.asarray(values, np.int64)


def graph_of(
    kind: str, x: npt.NDArray[np.float32], constants: Arrays, outputs: int = 1, **attributes: Any
) -> bytes:
    """Return a model of one node; further inputs are constants, in order; "" leaves one out."""
    names = ["x", *(name if not name.startswith("omit") else "" for name in constants)]
    results = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(kind, names, results, **attributes)
    stored = [
        numpy_helper.from_array(a, n) for n, a in constants.items() if not n.startswith("omit")
    ]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, list(x.shape))],
        [helper.make_tensor_value_info("y0", 1, None)],
        initializer=stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


IMAGE = (2, 4, 8, 8)
NODES: list[tuple[str, tuple[int, ...], Arrays, dict[str, Any]]] = [
    ("Conv", IMAGE, {"w": floats(6, 2, 3, 3), "b": floats(6)}, {"group": 2, "pads": [1, 1, 1, 1]}),
    ("Conv", IMAGE, {"w": floats(5, 4, 3, 3)}, {"strides": [2, 2], "pads": [0, 1, 2, 1]}),
    ("ConvTranspose", IMAGE, {"w": floats(4, 3, 2, 2)}, {"strides": [2, 2]}),
    ("Gemm", (3, 5), {"w": floats(7, 5), "b": floats(7)}, {"transB": 1, "alpha": 0.5}),
    ("MatMul", (3, 5), {"w": floats(5, 2)}, {}),
    (
        "BatchNormalization",
        IMAGE,
        {"s": floats(4), "b": floats(4), "m": floats(4), "v": np.abs(floats(4)) + 0.1},
        {"epsilon": 1e-3},
    ),
    ("LayerNormalization", (2, 3, 6), {"s": floats(6), "b": floats(6)}, {"axis": -1}),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    (
        "AveragePool",
        IMAGE,
        {},
        {
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1, 1, 1, 1],
            "count_include_pad": 1,
        },
    ),
    ("GlobalAveragePool", IMAGE, {}, {}),
    ("ReduceMean", IMAGE, {}, {"axes": [2, 3], "keepdims": 0}),
    ("Pad", IMAGE, {"p": integers(0, 0, 1, 2, 0, 0, 3, 4)}, {}),
    ("Reshape", IMAGE, {"s": integers(0, -1)}, {}),
    ("Flatten", IMAGE, {}, {"axis": 2}),
    ("Transpose", IMAGE, {}, {"perm": [0, 2, 3, 1]}),
    ("Slice", IMAGE, {"s": integers(1, 0), "e": integers(4, 7), "a": integers(1, 3)}, {}),
    ("Split", IMAGE, {"s": integers(1, 3)}, {"axis": 1}),
    ("Gather", IMAGE, {"i": integers(3, 0)}, {"axis": 1}),
    ("Gather", IMAGE, {"i": np.asarray([[3, 0], [1, 1]], np.int32)}, {"axis": 2}),
    ("Tile", IMAGE, {"n": integers(1, 2, 1, 3)}, {}),
    ("Unsqueeze", (2, 3), {"a": integers(1)}, {}),
    ("Squeeze", (2, 1, 3), {"a": integers(1)}, {}),
    (
        "Resize",
        IMAGE,
        {"omit": integers(0), "f": np.asarray([1, 1, 2, 3], np.float32)},
        {
            "mode": "nearest",
            "nearest_mode": "floor",
            "coordinate_transformation_mode": "asymmetric",
        },
    ),
    ("Clip", IMAGE, {"l": np.asarray(-0.5, np.float32), "h": np.asarray(0.25, np.float32)}, {}),
    ("HardSwish", IMAGE, {}, {}),
    ("HardSigmoid", IMAGE, {}, {"alpha": 1 / 6, "beta": 0.5}),
    ("Elu", IMAGE, {}, {"alpha": 0.7}),
    ("LeakyRelu", IMAGE, {}, {"alpha": 0.1}),
    ("Softmax", IMAGE, {}, {"axis": 1}),
    ("Erf", IMAGE, {}, {}),
    ("Round", IMAGE, {}, {}),
    ("Concat", IMAGE, {"b": floats(*IMAGE)}, {"axis": 1}),
    *((kind, IMAGE, {}, {}) for kind in ("Relu", "Sigmoid", "Tanh", "Identity")),
    *((kind, IMAGE, {"b": floats(4, 1, 1)}, {}) for kind in ("Add", "Sub", "Mul", "Div")),
]


@pytest.mark.parametrize(("kind", "shape", "constants", "attributes"), NODES)
def test_every_operator_computes_what_onnx_runtime_computes(
    kind: str, shape: tuple[int, ...], constants: Arrays, attributes: dict[str, Any]
) -> None:
    x = floats(*shape)
    data = graph_of(kind, x, constants, 2 if kind == "Split" else 1, **attributes)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = session.run(["y0"], {"x": x})[0]
    found = DifferentiableEdge(data, "test")(torch.from_numpy(x)).numpy()
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=2e-5)


def test_an_unknown_operator_is_refused_by_name() -> None:
    data = graph_of("Cosh", floats(2, 3), {})
    with pytest.raises(UnsupportedHereError, match="Cosh of test"):
        DifferentiableEdge(data, "test")


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("differentiable"), tiny_model, tiny_images)[0]


def edge_of(bundle: Bundle, name: str) -> DifferentiableEdge:
    return DifferentiableEdge(bundle.read(bundle.artifact(name)), name)


def sent(bundle: Bundle, name: str, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    artifact = bundle.artifact(name)
    loaded = runtime_for(artifact).load(bundle, artifact)
    return boundary_features(loaded, artifact, bundle.manifest.wire, batch)


def test_the_fp32_edge_is_that_of_onnx_runtime(
    bundle: Bundle, tiny_images: npt.NDArray[np.uint8]
) -> None:
    batch = preprocess(tiny_images, bundle.manifest.preprocessing)
    found = edge_of(bundle, "edge_fp32_onnx")(torch.from_numpy(batch)).numpy()
    assert np.allclose(found, sent(bundle, "edge_fp32_onnx", batch), atol=1e-4)


@pytest.mark.parametrize("name", ["edge_int8_onnx", "edge_int8_lite"])
def test_the_int8_edge_is_that_of_both_runtimes_within_a_step(
    bundle: Bundle, tiny_images: npt.NDArray[np.uint8], name: str
) -> None:
    batch = preprocess(tiny_images, bundle.manifest.preprocessing)
    with torch.no_grad():
        found = edge_of(bundle, "edge_int8_onnx")(torch.from_numpy(batch)).numpy()
    steps = np.abs(found - sent(bundle, name, batch)) / bundle.manifest.wire.scale
    assert (steps < 1.01).mean() > 0.999
    assert (steps < 0.01).mean() > 0.95
    # The float edge is no such approximation: a simulation without rounding would be found out.
    plain = edge_of(bundle, "edge_fp32_onnx")(torch.from_numpy(batch)).numpy()
    assert (
        np.abs(plain - sent(bundle, name, batch)) / bundle.manifest.wire.scale < 0.01
    ).mean() < 0.5


def test_gradients_are_those_of_finite_differences(
    bundle: Bundle, tiny_images: npt.NDArray[np.uint8]
) -> None:
    batch = torch.from_numpy(preprocess(tiny_images[:4], bundle.manifest.preprocessing))
    step = 1e-2 * torch.randn(batch.shape, generator=torch.Generator().manual_seed(0))
    for name, tolerance in (("edge_fp32_onnx", 0.02), ("edge_int8_onnx", 0.25)):
        edge, x = edge_of(bundle, name), batch.clone().requires_grad_(True)
        weight = torch.randn(edge(batch).shape, generator=torch.Generator().manual_seed(1))
        (weight * edge(x)).sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        predicted = float((x.grad * step).sum())
        # Through many rounded values the steps average out to the straight-through slope.
        wide = 20.0 if "int8" in name else 1.0
        with torch.no_grad():
            up, down = edge(batch + wide * step), edge(batch - wide * step)
        measured = float((weight * (up - down)).sum()) / (2 * wide)
        assert measured == pytest.approx(predicted, rel=tolerance, abs=0.02)


def test_rounding_passes_gradients_and_clipping_only_those_that_lead_back() -> None:
    scale, zero = torch.tensor(0.5), torch.tensor(10.0)
    values = [-20.0, 1.1, 200.0]
    for boundary, target, expected in (
        (False, 0.0, [0.0, 2.0, 0.0]),
        (True, 100.0, [2.0, 2.0, 2.0]),
        (True, -1.0, [0.0, 2.0, 2.0]),
        (True, 300.0, [2.0, 2.0, 0.0]),
    ):
        x = torch.tensor(values, requires_grad=True)
        q = quantize(x, scale, zero, boundary=boundary)
        assert q.tolist() == [0.0, 12.0, 255.0]
        # The sign of the error decides: a value that should be higher has to rise.
        (torch.sign(q.detach() - target) * q).sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert x.grad.abs().tolist() == expected
    x = torch.tensor([-1.0, 0.5, 4.0], requires_grad=True)
    q = clip(x, torch.tensor(0.0), torch.tensor(3.0), boundary=True)
    assert q.tolist() == [0.0, 0.5, 3.0]
    (-q).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0, -1.0, 0.0]


def test_ties_are_rounded_before_the_zero_point_is_added() -> None:
    x = torch.tensor([0.5, 1.5, 2.5])
    assert quantize(x, torch.tensor(1.0), torch.tensor(1.0)).tolist() == [1.0, 3.0, 3.0]


def test_a_clip_behind_the_last_quantization_belongs_to_the_boundary(bundle: Bundle) -> None:
    model = onnx.load_model_from_string(bundle.read(bundle.artifact("edge_int8_onnx")))
    last = max(k for k, n in enumerate(model.graph.node) if n.op_type == "QuantizeLinear")
    stored = model.graph.node[last].output[0]
    top = numpy_helper.from_array(np.asarray(100, np.uint8), "top")
    model.graph.initializer.append(top)
    model.graph.node.insert(last + 1, helper.make_node("Clip", [stored, "", "top"], ["clipped"]))
    for node in list(model.graph.node)[last + 2 :]:
        for k, name in enumerate(node.input):
            if name == stored:
                node.input[k] = "clipped"
    edge = DifferentiableEdge(model.SerializeToString(), "narrow")
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    found = edge(x)
    wire = bundle.manifest.wire
    highest = (100 - wire.zero_point) * wire.scale
    assert found.max() <= highest + 1e-5
    beyond = found.detach() >= highest - 1e-5
    assert beyond.any()
    (found * beyond).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
