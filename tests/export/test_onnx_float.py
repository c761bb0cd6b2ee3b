"""FP32 halves as ONNX: torch's outputs, one file, equal bytes, nothing of this machine in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export.onnx_float import write_float_onnx
from records.errors import ExportError, OverwriteError
from tests.export.edges import batch, split

SHAPE = (3, 32, 32)
CUTS = [
    ("tiny", "block3", 17),
    ("tiny", "block3", 21),
    ("mobilenet_v3_small", "features.3", 17),
    ("mobilenet_v2", "features.3", 17),
    ("shufflenet_v2_x1_0", "stage3.0", 17),
]


def run(path: Path, name: str, value: Tensor) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: value.numpy()})[0])


def assert_close(found: Any, expected: Tensor) -> None:
    tolerance = 1e-4 * max(1.0, float(expected.abs().max()))
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "cut", "opset"), CUTS)
def test_both_halves_compute_what_torch_computes(
    name: str, cut: str, opset: int, tmp_path: Path
) -> None:
    halves = split(name, cut)
    edge, server = tmp_path / "edge.onnx", tmp_path / "server.onnx"
    with torch.no_grad():
        boundary = halves.edge(batch())
        logits = halves.server(boundary)
    shape = tuple(boundary.shape[1:])
    write_float_onnx(halves.edge, SHAPE, edge, opset=opset, output_name="boundary")
    write_float_onnx(
        halves.server, shape, server, opset=opset, input_name="boundary", output_name="logits"
    )
    for count in (1, 5, len(batch())):
        assert_close(run(edge, "input", batch()[:count]), boundary[:count])
        assert_close(run(server, "boundary", boundary[:count]), logits[:count])
    for path, ends in ((edge, [SHAPE, shape]), (server, [shape, (8,)])):
        model = onnx.load_model(path, load_external_data=False)
        onnx.checker.check_model(model, full_check=True)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
        assert model.ir_version <= 10
        assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
        found = [
            [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim]
            for end in (*model.graph.input, *model.graph.output)
        ]
        assert found == [["N", *end] for end in ends]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edge.onnx", "server.onnx"]


def test_same_module_same_bytes_and_no_path(tmp_path: Path) -> None:
    module = split("mobilenet_v3_small", "features.3").edge
    (tmp_path / "again").mkdir()
    paths = (tmp_path / "x.onnx", tmp_path / "again" / "x.onnx")
    for path in paths:
        write_float_onnx(module, SHAPE, path, opset=17, output_name="boundary")
    data = paths[0].read_bytes()
    assert data == paths[1].read_bytes()
    for part in (str(tmp_path), str(Path.home()), str(Path(__file__).parents[2]), ".py", "torch"):
        assert part.encode() not in data
    model = onnx.load_model(paths[0])
    assert (model.producer_name, model.producer_version) == ("edgeveil", "")
    assert not model.metadata_props


def test_the_module_is_not_changed(tmp_path: Path) -> None:
    module = split("tiny", "block3").edge
    before = {name: value.clone() for name, value in module.state_dict().items()}
    write_float_onnx(module, SHAPE, tmp_path / "x.onnx", opset=17, output_name="boundary")
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OverwriteError):
        write_float_onnx(nn.ReLU(), (4,), path, opset=17, output_name="y")
    assert path.read_bytes() == b"mine"


class FixedBatch(nn.Module):
    """Tracing turns the batch size into a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(int(x.shape[0])).reshape(-1, 1)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(x.reshape(-1, 2, 2))
        return values


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (FixedBatch(), "ONNX Runtime"),
        (Random(), "differs from torch"),
        (Pair(), "one tensor"),
        (Unknown(), "cannot be written"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    module: nn.Module, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=words):
        write_float_onnx(module, (4,), tmp_path / "x.onnx", opset=17, output_name="y")
    assert list(tmp_path.iterdir()) == []
