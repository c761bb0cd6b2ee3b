"""Hostile ``.tflite`` files: each is refused by the named error, the honest one passes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle_errors import (
    ArtifactMismatchError,
    MalformedArtifactError,
    NonFiniteWeightsError,
    UnsafeOperatorError,
)
from export.layers import Grid, Layer, LayerGraph, Value, Weights
from export.tflite_scan import scan_tflite
from records.errors import BundleError
from records.manifest import Artifact, Boundary, Precision, TensorSpec, WireTensor

pytest.importorskip("ai_edge_litert", reason="the extra litert is not installed")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from export.tflite import tflite_bytes

WIRE = WireTensor(shape=(4, 8, 8), scale=float(np.float32(0.05)), zero_point=3)
_IMAGE = TensorSpec(name="input", shape=(3, 8, 8), dtype="float32")


def _layers(*, quantized: bool) -> LayerGraph:
    grids = (Grid(float(np.float32(0.02)), 110), Grid(WIRE.scale, 3)) if quantized else (None, None)
    rng = np.random.default_rng(0)
    real = rng.standard_normal(4).astype(np.float32)
    if quantized:
        values = rng.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8)
        bias, scales = np.arange(4, dtype=np.int32), np.full(4, 0.01, np.float32)
        weights = Weights(values=values, bias=bias, real_bias=real, scales=scales)
    else:
        floats = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
        weights = Weights(values=floats, bias=real, real_bias=real)
    image, end = Value("image", (3, 8, 8)), Value("end", (4, 8, 8), grids[1])
    source = Value("source", (3, 8, 8), grids[0])
    one = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    first = (Layer("quantize", "quantize", (image,), source),) if quantized else ()
    conv = Layer("convolution", "conv", (source if quantized else image,), end, one, weights)
    return LayerGraph(image, (*first, conv), end)


@functools.cache
def honest(*, quantized: bool = True, boundary: Boundary = "wire") -> bytes:
    end: Any = boundary
    return tflite_bytes(_layers(quantized=quantized), boundary=end)


def artifact(precision: Precision = "int8", boundary: Boundary = "wire") -> Artifact:
    dtype: Any = "uint8" if boundary == "wire" else "float32"
    return Artifact(
        name="edge",
        file="edge.tflite",
        format="litert",
        role="edge",
        precision=precision,
        boundary=boundary,
        sha256="0" * 64,
        size=1,
        weight_bytes=0,
        input=_IMAGE,
        output=TensorSpec(name="boundary", shape=WIRE.shape, dtype=dtype),
    )


def changed(change: Callable[[Any], object]) -> bytes:
    """Return the honest file with its tables changed and packed again."""
    model = schema.ModelT.InitFromPackedBuf(honest())
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_honest_files_pass() -> None:
    scan_tflite(honest(), artifact(), WIRE, "edge")
    scan_tflite(honest(boundary="float"), artifact(boundary="float"), WIRE, "edge")
    fp32 = honest(quantized=False, boundary="float")
    scan_tflite(fp32, artifact("fp32", "float"), WIRE, "edge")
    scan_tflite(changed(lambda model: None), artifact(), WIRE, "edge")


def _custom(model: Any) -> None:
    model.operatorCodes[0].builtinCode = 32
    model.operatorCodes[0].deprecatedBuiltinCode = 32


def _control_flow(model: Any) -> None:
    model.operatorCodes[0].builtinCode = 119


def _named_custom(model: Any) -> None:
    model.operatorCodes[0].customCode = b"FlexEager"


def _outside(model: Any) -> None:
    model.buffers[1].offset, model.buffers[1].size = 4096, 16


def _short_weight(model: Any) -> None:
    weight = next(t for t in model.subgraphs[0].tensors if t.name.endswith(b"_weight"))
    model.buffers[weight.buffer].data = model.buffers[weight.buffer].data[:-1]


def _early_use(model: Any) -> None:
    operators = model.subgraphs[0].operators
    operators[0], operators[1] = operators[1], operators[0]


def _no_tensor(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = np.array([10_000], np.int32)


def _infinite_scale(model: Any) -> None:
    weight = next(t for t in model.subgraphs[0].tensors if t.name.endswith(b"_weight"))
    weight.quantization.scale = np.full(4, np.inf, np.float32)


def _other_grid(model: Any) -> None:
    model.subgraphs[0].tensors[-1].quantization.scale = np.array([0.5], np.float32)


def _other_shape(model: Any) -> None:
    model.subgraphs[0].tensors[0].shapeSignature = np.array([-1, 3, 9, 9], np.int32)


def _huge(model: Any) -> None:
    model.subgraphs[0].tensors[1].shape = np.array([1, 1 << 16, 1 << 15], np.int32)


def _other_name(model: Any) -> None:
    model.subgraphs[0].tensors[-1].name = b"other"


def _two_graphs(model: Any) -> None:
    model.subgraphs.append(model.subgraphs[0])


HOSTILE: dict[str, tuple[Callable[[Any], None], type[BundleError]]] = {
    "custom operator": (_custom, UnsafeOperatorError),
    "control flow": (_control_flow, UnsafeOperatorError),
    "custom operator by name": (_named_custom, MalformedArtifactError),
    "data outside the buffers": (_outside, MalformedArtifactError),
    "short weight": (_short_weight, MalformedArtifactError),
    "used before it is made": (_early_use, MalformedArtifactError),
    "no such tensor": (_no_tensor, MalformedArtifactError),
    "infinite scale": (_infinite_scale, NonFiniteWeightsError),
    "another grid at the end": (_other_grid, ArtifactMismatchError),
    "another input": (_other_shape, MalformedArtifactError),
    "huge tensor": (_huge, MalformedArtifactError),
    "another name": (_other_name, ArtifactMismatchError),
    "two graphs": (_two_graphs, MalformedArtifactError),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str) -> None:
    change, error = HOSTILE[name]
    with pytest.raises(error):
        scan_tflite(changed(change), artifact(), WIRE, "edge")


def test_a_manifest_of_another_file_is_refused() -> None:
    with pytest.raises(ArtifactMismatchError):
        scan_tflite(honest(boundary="float"), artifact(), WIRE, "edge")
    with pytest.raises(ArtifactMismatchError, match="fp32"):
        scan_tflite(honest(boundary="float"), artifact("fp32", "float"), WIRE, "edge")
    other = msgspec.structs.replace(WIRE, zero_point=4)
    with pytest.raises(ArtifactMismatchError, match="grid"):
        scan_tflite(honest(), artifact(), other, "edge")


def test_fewer_bits_need_a_clip() -> None:
    with pytest.raises(ArtifactMismatchError, match="4 bits"):
        scan_tflite(honest(), artifact(), msgspec.structs.replace(WIRE, bits=4), "edge")


@settings(deadline=None)
@given(st.data())
def test_a_changed_byte_passes_or_is_refused_by_name(data: st.DataObject) -> None:
    file = bytearray(honest())
    file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        scan_tflite(bytes(file), artifact(), WIRE, "edge")
    except BundleError:
        return
