"""Counting integer convolutions: all of a QDQ model's, and not those that stay in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from records.errors import ArtifactError
from runtime_check.ort_graph import quantized_convolutions


def model(path: Path, *, quantized_input: bool = True, quantized_end: bool = True) -> Path:
    """One QDQ convolution by hand: (N, 2, 4, 4) float32 → 1×1 convolution → (N, 3, 4, 4)."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "scale": np.asarray(0.1, np.float32),
        "point": np.asarray(128, np.uint8),
        "weight": np.arange(-3, 3, dtype=np.int8).reshape(3, 2, 1, 1),
        "weight_scale": np.full(3, 0.5, np.float32),
        "weight_point": np.zeros(3, np.int8),
        "bias": np.asarray([1, 2, 3], np.int32),
        "bias_scale": np.full(3, 0.05, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["x"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_point"], ["w"], axis=0
        ),
        helper.make_node("DequantizeLinear", ["bias", "bias_scale"], ["b"], axis=0),
        helper.make_node(
            "Conv", ["x" if quantized_input else "input", "w", "b"], ["y"], name="the convolution"
        ),
    ]
    if quantized_end:
        nodes.append(helper.make_node("QuantizeLinear", ["y", "scale", "point"], ["end"]))
        nodes.append(helper.make_node("DequantizeLinear", ["end", "scale", "point"], ["output"]))
    else:
        nodes.append(helper.make_node("Abs", ["y"], ["output"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, 4, 4])
        for name, channels in (("input", 2), ("output", 3))
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(made, path)
    return path


def test_a_convolution_between_integers_is_fused(tmp_path: Path) -> None:
    fusion = quantized_convolutions(model(tmp_path / "x.onnx"))
    assert (fusion.total, fusion.fused, fusion.float_left) == (1, 1, ())
    assert fusion.complete
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]


def test_a_convolution_without_quantization_after_it_is_not(tmp_path: Path) -> None:
    fusion = quantized_convolutions(model(tmp_path / "x.onnx", quantized_end=False))
    assert (fusion.total, fusion.fused) == (1, 0)
    assert fusion.float_left == ("the convolution",)
    assert not fusion.complete


def test_a_convolution_of_floats_is_not(tmp_path: Path) -> None:
    fusion = quantized_convolutions(model(tmp_path / "x.onnx", quantized_input=False))
    assert (fusion.total, fusion.fused, fusion.complete) == (1, 0, False)
    assert len(fusion.float_left) == 1


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x\.onnx"):
        quantized_convolutions(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        quantized_convolutions(tmp_path / "none.onnx")
