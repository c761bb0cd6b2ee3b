"""The ``.pte`` of an edge in ExecuTorch itself, against eager FX INT8; and hostile files."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from export.bundle_errors import (
    ArtifactMismatchError,
    MalformedArtifactError,
    UnsafeOperatorError,
)
from export.layer_reader import read_layers
from export.pte_scan import scan_pte
from export.quantize import qnnpack_engine
from records.errors import BundleError, ExportError
from records.manifest import Artifact, TensorSpec
from tests.export import edges

pytest.importorskip("executorch", reason="the extra executorch is not installed")

from export.pte import PteProgram, lower
from runtime_check.executorch import load_executorch

SHAPE = (3, 32, 32)
CUT = "block3"


@functools.cache
def lowered(*, quantized: bool, wire: bool) -> PteProgram:
    whole = edges.quantized("tiny", CUT)
    module = whole.float_boundary if quantized else edges.split("tiny", CUT).edge
    return lower(read_layers(module, SHAPE), wire=wire)


def artifact(dtype: Any = "uint8", shape: tuple[int, ...] = (16, 8, 8)) -> Artifact:
    return Artifact(
        name="edge",
        file="edge.pte",
        format="executorch",
        role="edge",
        precision="int8",
        boundary="wire" if dtype == "uint8" else "float",
        sha256="0" * 64,
        size=1,
        weight_bytes=0,
        input=TensorSpec(name="input", shape=SHAPE, dtype="float32"),
        output=TensorSpec(name="boundary", shape=shape, dtype=dtype),
    )


def run(program: PteProgram, dtype: str = "uint8") -> npt.NDArray[Any]:
    loaded = load_executorch(program.data, artifact(dtype), threads=1)
    return loaded.run(edges.batch().numpy())


def test_int8_is_eager_int8_within_two_steps() -> None:
    found = run(lowered(quantized=True, wire=True))
    with qnnpack_engine(), torch.inference_mode():
        expected = edges.quantized("tiny", CUT).wire(edges.batch()).numpy()
    off = np.abs(found.astype(np.int64) - expected.astype(np.int64))
    assert (off <= 2).mean() >= 0.999
    assert (off == 0).mean() >= 0.99


def test_one_delegate_takes_all_but_the_shift_to_uint8() -> None:
    wire = lowered(quantized=True, wire=True)
    assert wire.delegates == 1
    assert not any("conv" in name or "quantize" in name for name in wire.not_delegated)
    real = lowered(quantized=True, wire=False)
    assert (real.delegates, real.not_delegated) == (1, ())


def test_the_float_boundary_is_the_wire_dequantized() -> None:
    whole = edges.quantized("tiny", CUT)
    steps = run(lowered(quantized=True, wire=True)).astype(np.float32)
    real = run(lowered(quantized=True, wire=False), "float32")
    steps -= np.float32(whole.wire_zero_point)
    np.testing.assert_array_equal(real, steps * np.float32(whole.wire_scale))


def test_fp32_computes_the_same_network() -> None:
    found = run(lowered(quantized=False, wire=False), "float32")
    with torch.inference_mode():
        expected = edges.split("tiny", CUT).edge(edges.batch()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_fp32_edge_has_no_wire() -> None:
    with pytest.raises(ExportError, match="no wire"):
        lower(read_layers(edges.split("tiny", "block1").edge, SHAPE), wire=True)


def test_honest_files_pass_the_scan() -> None:
    scan_pte(lowered(quantized=True, wire=True).data, artifact(), "edge")
    scan_pte(lowered(quantized=True, wire=False).data, artifact("float32"), "edge")
    scan_pte(lowered(quantized=False, wire=False).data, artifact("float32"), "edge")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"XnnpackBackend", b"XnnpackBackenX", UnsafeOperatorError),
        (b"dim_order_ops::", b"evil_order_op::", UnsafeOperatorError),
        (b"forward", b"backwar", MalformedArtifactError),
        (b"ET12", b"ET99", MalformedArtifactError),
        (b"eh00", b"eh01", MalformedArtifactError),
        (b"XH00", b"XH01", MalformedArtifactError),
    ],
)
def test_a_changed_file_is_refused_by_name(old: bytes, new: bytes, error: type[Exception]) -> None:
    data = lowered(quantized=True, wire=True).data
    assert old in data
    with pytest.raises(error):
        scan_pte(data.replace(old, new), artifact(), "edge")


def test_a_cut_file_is_refused() -> None:
    data = lowered(quantized=True, wire=True).data
    for length in (0, 7, 40, len(data) // 2, len(data) - 2000):
        with pytest.raises(BundleError):
            scan_pte(data[:length], artifact(), "edge")


def test_other_ends_are_refused() -> None:
    data = lowered(quantized=True, wire=True).data
    for other in (artifact("float32"), artifact(shape=(16, 8, 9))):
        with pytest.raises(ArtifactMismatchError):
            scan_pte(data, other, "edge")
