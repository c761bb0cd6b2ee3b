"""ExecuTorch's own export, run in ExecuTorch itself on this machine."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from export.layer_reader import read_layers
from records.errors import ExportError
from records.manifest import Artifact, TensorSpec
from tests.export import edges

pytest.importorskip("executorch", reason="the extra executorch is not installed")

from benchmarks.plain_executorch import PlainProgram, plain_executorch
from export.pte import lower
from runtime_check.executorch import load_executorch

SHAPE = (3, 32, 32)
CUT = "block3"
#: What 8 bits can tell apart.
LEVELS = 256


@functools.cache
def exported() -> PlainProgram:
    return plain_executorch(edges.split("tiny", CUT).edge, edges.batch().numpy())


def run(data: bytes) -> npt.NDArray[Any]:
    boundary = TensorSpec(name="boundary", shape=(16, 8, 8), dtype="float32")
    artifact = Artifact(
        name="edge",
        file="edge.pte",
        format="executorch",
        role="edge",
        precision="int8",
        boundary="float",
        sha256="0" * 64,
        size=1,
        weight_bytes=0,
        input=TensorSpec(name="input", shape=SHAPE, dtype="float32"),
        output=boundary,
    )
    return load_executorch(data, artifact, threads=1).run(edges.batch().numpy())


def test_it_is_the_same_network() -> None:
    with torch.inference_mode():
        expected = edges.split("tiny", CUT).edge(edges.batch()).numpy()
    found = run(exported().data)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.1 * expected.std()


def test_it_is_integer_and_one_delegate_takes_it() -> None:
    floats = lower(read_layers(edges.split("tiny", CUT).edge, SHAPE), wire=False).data
    assert exported().delegates == 1
    assert len(np.unique(run(exported().data))) <= LEVELS < len(np.unique(run(floats)))


def test_what_cannot_be_exported_is_refused() -> None:
    edge = edges.split("tiny", CUT).edge
    with pytest.raises(ExportError, match="no calibration images"):
        plain_executorch(edge, np.zeros((0, *SHAPE), np.float32))
    with pytest.raises(ExportError, match="refuses"):
        plain_executorch(edge, np.zeros((1, 4, 32, 32), np.float32))
