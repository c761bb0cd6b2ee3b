"""Layers left in float by name: in the graph, in every artifact, and refused where they are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.jit.mobile import _load_for_lite_interpreter

from export import fx_graph, onnx_qdq, torchscript
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from records.errors import ExportError
from records.recipe import ExportRecipe
from runtime_check.ort_graph import quantized_convolutions
from tests.export.edges import batch, split

SHAPE = (3, 32, 32)


def edge(cut: str, *layers: str, name: str = "tiny") -> QuantizedEdge:
    recipe = ExportRecipe(activation_observer="min-max", float_layers=layers)
    return quantize_edge(split(name, cut).edge, [batch()], recipe)


def ort(path: Path, *, optimized: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    # Exact on every CPU: without VNNI the default kernels saturate.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options)
    return session.run(None, {"input": batch().numpy()})[0]


def test_without_names_nothing_is_left() -> None:
    assert edge("pool").float_nodes == ()


@pytest.mark.parametrize(
    ("name", "cut", "layers", "convolutions", "left"),
    [
        ("tiny", "pool", ("block2",), 8, {"block2_depthwise", "mul", "block2_squeeze_gate"}),
        ("tiny", "pool", ("stem",), 11, {"stem_0_0", "stem_0_1"}),
        ("tiny", "classifier", ("add", "classifier"), 12, {"add", "classifier"}),
        ("mobilenet_v3_small", "features.3", ("features.1",), 7, {"features_1_block_2_0"}),
    ],
)
def test_named_layers_are_float_in_every_artifact(
    name: str, cut: str, layers: tuple[str, ...], convolutions: int, left: set[str], tmp_path: Path
) -> None:
    found = edge(cut, *layers, name=name)
    assert left <= set(found.float_nodes)
    with qnnpack_engine(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = found.wire(batch())
        torchscript.write_lite(found.wire, tmp_path / "edge.ptl")
        load: Callable[[str], Any] = _load_for_lite_interpreter
        assert torch.equal(load(str(tmp_path / "edge.ptl"))(batch()), expected)
        graph, tensors = tmp_path / "g.json", tmp_path / "g.safetensors"
        fx_graph.save_graph(found.float_boundary, graph, tensors)
        again = fx_graph.load_graph(graph, tensors)
        assert torch.equal(again(batch()), found.float_boundary(batch()))
    path = tmp_path / "edge.onnx"
    onnx_qdq.write_qdq_onnx(found.float_boundary, SHAPE, path, opset=17, boundary="wire")
    fusion = quantized_convolutions(path)
    assert fusion.fused == convolutions == fusion.total - len(fusion.float_left)
    for optimized in (False, True):
        difference = np.abs(ort(path, optimized=optimized).astype(int) - expected.numpy())
        assert np.mean(difference <= 1) >= 0.99


def test_qdq_onnx_has_nothing_quantized_inside_a_float_block(tmp_path: Path) -> None:
    path = tmp_path / "edge.onnx"
    found = edge("block2", "block2")
    onnx_qdq.write_qdq_onnx(found.float_boundary, SHAPE, path, opset=17, boundary="wire")
    model = onnx.load_model(path)
    stored = {t.name: t.data_type for t in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    real = [n for n in convolutions if stored.get(n.input[1]) == onnx.TensorProto.FLOAT]
    # Of block2 four; the stem's and the two of block1 have int8 weights behind a DequantizeLinear.
    assert (len(convolutions), len(real)) == (7, 4)
    assert not any("block2" in name and name.endswith("int8") for name in stored)
    assert any("block1" in name and name.endswith("int8") for name in stored)


def test_float_layers_come_nearer_to_fp32() -> None:
    fp32 = split("tiny", "pool")
    with torch.no_grad(), qnnpack_engine():
        expected = fp32.edge(batch())
        errors = [
            float((edge("pool", *layers).float_boundary(batch()) - expected).square().sum())
            for layers in ((), ("stem", "block1", "block2", "block3", "head"))
        ]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("blok2",), "no float layer 'blok2'; did you mean block2"),
        (("block1", "classifier"), "no float layer 'classifier'"),
        (("stem.1",), "'stem.1': nothing of it is quantized"),
        (("block1.norm1",), "'block1.norm1': nothing of it is quantized"),
        (("block3.squeeze.gate",), "'block3.squeeze.gate': between quantized neighbours"),
    ],
)
def test_a_name_that_leaves_nothing_in_float_is_refused(
    layers: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        edge("pool", *layers)
