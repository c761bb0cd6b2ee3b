"""The Lite interpreter: bit for bit eager under qnnpack, and it leaves torch as it found it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from baseline.split import split_network
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from export.torchscript import write_lite
from records.errors import ArtifactError
from records.manifest import Artifact, Boundary, TensorSpec, WireTensor
from records.recipe import ExportRecipe
from runtime_check.lite import LoadedLite, load_lite
from runtime_check.runtime import boundary_features, probe
from runtime_check.torch_scope import torch_scope

if TYPE_CHECKING:
    from torch import nn

Real = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def batch(tiny_images: npt.NDArray[np.uint8]) -> Real:
    real = tiny_images[:32].transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray(real / 255.0 - 0.5)


@pytest.fixture(scope="module")
def quantized(tiny_model: nn.Module, batch: Real) -> QuantizedEdge:
    edge = split_network(tiny_model, "block2").edge
    return quantize_edge(edge, [torch.from_numpy(batch)], ExportRecipe(splits=("block2",)))


def written(
    module: torch.fx.GraphModule, path: Path, shape: tuple[int, ...], boundary: Boundary
) -> tuple[LoadedLite, Artifact]:
    with qnnpack_engine():
        write_lite(module, path)
    data = path.read_bytes()
    artifact = Artifact(
        name="edge",
        file=path.name,
        format="torchscript-lite",
        role="edge",
        precision="int8",
        boundary=boundary,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        weight_bytes=0,
        input=TensorSpec(name="input", shape=(3, 32, 32), dtype="float32"),
        output=TensorSpec(
            name="boundary", shape=shape, dtype="uint8" if boundary == "wire" else "float32"
        ),
    )
    return load_lite(data, artifact, threads=1), artifact


def test_equals_eager_bit_for_bit_and_the_wire_dequantizes_to_it(
    quantized: QuantizedEdge, batch: Real, tmp_path: Path
) -> None:
    with torch_scope(1):
        eager: Real = quantized.float_boundary(torch.from_numpy(batch)).numpy()
    shape = eager.shape[1:]
    loaded, artifact = written(quantized.float_boundary, tmp_path / "f.ptl", shape, "float")
    probe(loaded, artifact)
    assert np.array_equal(loaded.run(batch), eager)
    sent, wire_artifact = written(quantized.wire, tmp_path / "w.ptl", shape, "wire")
    wire = WireTensor(shape=shape, scale=quantized.wire_scale, zero_point=quantized.wire_zero_point)
    assert sent.run(batch).dtype == np.uint8
    assert np.array_equal(boundary_features(sent, wire_artifact, wire, batch), eager)


def test_engine_threads_and_gradients_are_restored(
    quantized: QuantizedEdge, batch: Real, tmp_path: Path
) -> None:
    engine, threads = torch.backends.quantized.engine, torch.get_num_threads()
    shape = quantized.float_boundary(torch.from_numpy(batch[:1])).shape[1:]
    loaded, _ = written(quantized.float_boundary, tmp_path / "f.ptl", tuple(shape), "float")
    loaded.run(batch)
    with pytest.raises(ArtifactError, match=r"edge takes float32 \(N, 3, 32, 32\)"):
        loaded.run(batch[:, :1])
    assert torch.backends.quantized.engine == engine
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_bytes_that_are_no_program_are_refused_by_name(
    quantized: QuantizedEdge, tmp_path: Path
) -> None:
    _, artifact = written(quantized.float_boundary, tmp_path / "f.ptl", (1,), "float")
    with pytest.raises(ArtifactError, match="cannot load edge"):
        load_lite(b"PK\x03\x04 no program", artifact, threads=1)
