"""ONNX Runtime's adapter on small models written with onnx.helper."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from records.errors import ArtifactError
from records.manifest import Artifact, Boundary, TensorSpec, WireTensor
from records.parity import Mode, OrtMode
from runtime_check import ort
from runtime_check.ort import OrtRuntime, compared_modes, load_session, ort_mode, session_options
from runtime_check.runtime import boundary_features, probe, runtime_for

WIRE = WireTensor(shape=(2,), scale=0.25, zero_point=128)


def quantizer(features: int = 2) -> bytes:
    """Return an ONNX model: (N, features) float32 → uint8 with scale 0.25, zero point 128."""
    return built(
        [helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["boundary"])],
        TensorProto.UINT8,
        features,
        numpy_helper.from_array(np.array(0.25, np.float32), "scale"),
        numpy_helper.from_array(np.array(128, np.uint8), "zero"),
    )


def logarithm() -> bytes:
    """Return an ONNX model that is not finite at zero."""
    return built([helper.make_node("Log", ["input"], ["boundary"])], TensorProto.FLOAT, 2)


def built(
    nodes: list[onnx.NodeProto], kind: int, features: int, *weights: onnx.TensorProto
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info("boundary", kind, ["N", features])],
        list(weights),
    )
    opset = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return data


def described(data: bytes, *, dtype: str = "uint8", features: int = 2) -> Artifact:
    boundary: Boundary = "wire" if dtype == "uint8" else "float"
    return Artifact(
        name="edge",
        file="edge.onnx",
        format="onnx",
        role="edge",
        precision="int8",
        boundary=boundary,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        weight_bytes=0,
        input=TensorSpec(name="input", shape=(2,), dtype="float32"),
        output=TensorSpec(name="boundary", shape=(features,), dtype=dtype),  # type: ignore[arg-type]
        opset=17,
    )


@pytest.mark.parametrize("mode", ["default", "precise", "optimizations-off"])
def test_runs_any_batch_size_in_every_mode(mode: Mode) -> None:
    data = quantizer()
    loaded = load_session(data, described(data), mode=mode, threads=1)
    assert loaded.mode == mode
    probe(loaded, described(data))
    for count in (1, 5):
        batch = np.full((count, 2), 0.5, np.float32)
        assert np.array_equal(loaded.run(batch), np.full((count, 2), 130, np.uint8))


def test_options_say_what_the_mode_means() -> None:
    off = session_options("optimizations-off", 2)
    assert off.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert (off.intra_op_num_threads, off.inter_op_num_threads) == (2, 1)
    precise = session_options("precise", 1)
    assert precise.get_session_config_entry("session.x64quantprecision") == "1"
    with pytest.raises(ArtifactError, match="no mode of ONNX Runtime"):
        session_options("qnnpack", 1)


def test_boundary_features_dequantizes_a_wire() -> None:
    data = quantizer()
    artifact = described(data)
    loaded = load_session(data, artifact, mode="default", threads=1)
    batch = np.array([[0.25, -1.0], [100.0, 0.1]], np.float32)
    real = boundary_features(loaded, artifact, WIRE, batch)
    assert real.dtype == np.float32
    assert real.tolist() == [[0.25, -1.0], [31.75, 0.0]]


def test_probe_refuses_what_the_manifest_does_not_say() -> None:
    data = quantizer()
    loaded = load_session(data, described(data), mode="default", threads=1)
    with pytest.raises(ArtifactError, match=r"edge returned uint8\(2, 2\).*says float32\(2, 2\)"):
        probe(loaded, described(data, dtype="float32"))
    with pytest.raises(ArtifactError, match=r"says uint8\(2, 3\)"):
        probe(loaded, described(data, features=3))
    data = logarithm()
    artifact = described(data, dtype="float32")
    with pytest.raises(ArtifactError, match="not finite"):
        probe(load_session(data, artifact, mode="default", threads=1), artifact)


def test_errors_of_the_runtime_name_the_artifact() -> None:
    data = quantizer()
    with pytest.raises(ArtifactError, match="cannot load edge"):
        load_session(b"no model", described(data), mode="default", threads=1)
    loaded = load_session(data, described(data), mode="default", threads=1)
    with pytest.raises(ArtifactError, match="edge failed in ONNX Runtime"):
        loaded.run(np.zeros((2, 7), np.float32))


def test_a_changed_file_is_not_loaded(tmp_path: Path) -> None:
    from export.bundle import Bundle
    from records.errors import BundleError

    data = quantizer()
    artifact = described(data)
    (tmp_path / artifact.file).write_bytes(data)
    bundle = Bundle(folder=tmp_path, manifest=None)  # type: ignore[arg-type]
    assert OrtRuntime().load(bundle, artifact).mode == ort_mode().mode
    (tmp_path / artifact.file).write_bytes(data[:-1] + b"\0")
    with pytest.raises(BundleError):
        OrtRuntime().load(bundle, artifact)


def test_mode_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(*, x86: bool, vnni: bool) -> tuple[OrtMode, tuple[Mode, ...]]:
        monkeypatch.setattr(ort, "is_x86", lambda: x86)
        monkeypatch.setattr(ort, "has_vnni", lambda: vnni)
        monkeypatch.setattr(ort, "needs_precise_mode", lambda: x86 and not vnni)
        return ort_mode(), compared_modes()

    mode, modes = on(x86=True, vnni=False)
    assert mode.mode == "precise"
    assert "no VNNI" in mode.reason
    assert modes == ("precise", "optimizations-off", "default")
    mode, modes = on(x86=True, vnni=True)
    assert (mode.mode, mode.has_vnni) == ("default", True)
    assert modes == ("default", "optimizations-off", "precise")
    mode, modes = on(x86=False, vnni=False)
    assert (mode.mode, mode.has_vnni) == ("default", False)
    assert "not x86" in mode.reason
    assert modes == ("default", "optimizations-off")


def test_runtime_for_takes_the_format_and_refuses_bare_tensors() -> None:
    import msgspec

    artifact = described(quantizer())
    assert runtime_for(artifact).name == "ort"
    lite = msgspec.structs.replace(artifact, format="torchscript-lite")
    assert runtime_for(lite).name == "lite"
    with pytest.raises(ArtifactError, match="tensors only"):
        runtime_for(msgspec.structs.replace(artifact, format="safetensors"))
