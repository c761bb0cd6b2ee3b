"""TorchScript Lite files: they run bit for bit, hold nothing superfluous, and are reproducible."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.quantize import qnnpack_engine
from export.torchscript import bytecode_version, write_lite
from records.errors import ArtifactError, ExportError, OverwriteError
from records.hashing import sha256_file
from tests.export.edges import NETWORKS, batch, quantized, split


def lite(path: Path, x: Tensor) -> Tensor:
    with warnings.catch_warnings(), qnnpack_engine(), torch.no_grad():
        warnings.simplefilter("ignore")
        from torch.jit.mobile import _load_for_lite_interpreter

        loaded = _load_for_lite_interpreter(str(path))  # type: ignore[no-untyped-call]
        result: Tensor = loaded(x)
    return result


def eager(module: nn.Module, x: Tensor) -> Tensor:
    with qnnpack_engine(), torch.no_grad():
        result: Tensor = module(x)
    return result


@pytest.mark.parametrize(("name", "cut"), NETWORKS)
def test_int8_runs_bit_for_bit_as_eager_does(name: str, cut: str, tmp_path: Path) -> None:
    edge = quantized(name, cut)
    for end in (edge.float_boundary, edge.wire):
        path = tmp_path / f"{end is edge.wire}.ptl"
        with qnnpack_engine():
            write_lite(end, path)
        for images in (batch(), batch()[:1], batch()[:5]):
            result = lite(path, images)
            assert result.dtype == (torch.uint8 if end is edge.wire else torch.float32)
            assert torch.equal(result, eager(end, images))


@pytest.mark.parametrize(("name", "cut"), [("tiny", "pool"), ("mobilenet_v3_small", "features.3")])
def test_fp32_runs_as_eager_does_to_float_precision(name: str, cut: str, tmp_path: Path) -> None:
    path = tmp_path / "edge.ptl"
    edge = split(name, cut).edge
    write_lite(edge, path)
    expected = eager(edge, batch())
    assert torch.allclose(lite(path, batch()), expected, rtol=1e-4, atol=1e-5)
    assert lite(path, batch()[:1]).shape == (1, *expected.shape[1:])


def test_the_file_holds_no_source_and_no_debug_tables(tmp_path: Path) -> None:
    path = tmp_path / "edge.ptl"
    with qnnpack_engine():
        write_lite(quantized("tiny", "block3").wire, path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        overhead = path.stat().st_size - sum(entry.file_size for entry in archive.infolist())
    storages = [f"archive/constants/{k}.storage" for k in range(len(names) - 3)]
    assert set(names) == {
        *(f"archive/{n}" for n in ("data.pkl", "bytecode.pkl", "version")),
        *storages,
    }
    # Types: int16 of the convolutions' settings, int8, float32 and one int64 of all zero points.
    assert len(storages) <= 5
    assert overhead < 1200


_WRITE = """
import sys, torch
from pathlib import Path
from export.quantize import qnnpack_engine
from export.torchscript import write_lite
from tests.export.edges import quantized
torch.set_num_threads(1)
with qnnpack_engine():
    write_lite(quantized("tiny", "block2").wire, Path(sys.argv[1]))
"""


def test_the_same_module_gives_the_same_bytes_whatever_was_compiled_before(tmp_path: Path) -> None:
    wire = quantized("tiny", "block2").wire
    with qnnpack_engine():
        write_lite(wire, tmp_path / "1.ptl")
        write_lite(quantized("tiny", "block1").wire, tmp_path / "other.ptl")
        write_lite(wire, tmp_path / "2.ptl")
    assert sha256_file(tmp_path / "1.ptl") == sha256_file(tmp_path / "2.ptl")
    assert sha256_file(tmp_path / "1.ptl") != sha256_file(tmp_path / "other.ptl")
    fresh = tmp_path / "fresh.ptl"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WRITE, str(fresh)],
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert sha256_file(fresh) == sha256_file(tmp_path / "1.ptl")


def test_bytecode_version_is_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edge.ptl"
    write_lite(split("tiny", "block1").edge, path)
    assert bytecode_version(path) == 8


def test_a_file_of_another_kind_has_no_bytecode_version(tmp_path: Path) -> None:
    (tmp_path / "text.ptl").write_bytes(b"nothing of the kind")
    for name in ("text.ptl", "missing.ptl"):
        with pytest.raises(ArtifactError, match=name):
            bytecode_version(tmp_path / name)


class Unscriptable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return eval("x + 1")  # type: ignore[no-any-return]  # noqa: S307


def test_a_module_that_cannot_be_compiled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Unscriptable"):
        write_lite(Unscriptable(), tmp_path / "edge.ptl")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "edge.ptl"
    path.write_bytes(b"mine")
    with pytest.raises(OverwriteError):
        write_lite(split("tiny", "block1").edge, path)
    assert path.read_bytes() == b"mine"


def test_data_where_a_function_lay_is_still_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).eval()
    place = id(network[0]._reversed_padding_repeated_twice)
    monkeypatch.setitem(torch.jit._builtins._get_builtin_table(), place, "aten::add")  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="builtin"):
        torch.jit.script(network)
    write_lite(network, tmp_path / "edge.ptl")
    x = batch(8)
    assert torch.equal(lite(tmp_path / "edge.ptl", x), eager(network, x))
