"""``edgeveil kit``: what it writes and says, and what it refuses."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy.typing as npt
import pytest

from records import codec
from records.hashing import sha256_file
from records.kit import KitFile
from tests.commands.exit_codes import exit_code_of
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from export.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("kit"), tiny_model, tiny_images)[0]


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return exit_code_of(monkeypatch, "kit", *arguments)


def test_a_kit_and_its_three_commands(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "kit.tar.gz"
    assert exit_code(monkeypatch, bundle.folder, "--out", out, "--limit", 12, "--json") == 0
    record = codec.decode(capsys.readouterr().out.encode(), KitFile, "stdout")
    assert (record.sha256, record.size) == (sha256_file(out), out.stat().st_size)
    assert record.kit.sample is not None
    assert (record.kit.sample.count, record.kit.bundle_id) == (12, bundle.manifest.bundle_id)
    assert exit_code(monkeypatch, bundle.folder) == 0
    said = capsys.readouterr().out
    (default,) = bundle.folder.parent.glob("edgeveil-kit-*.tar.gz")
    assert str(default) in said
    assert [line.split()[0] for line in said.splitlines()[-3:]] == ["tar", "python3", "python3"]
    with tarfile.open(default) as archive:
        folder = default.name.removesuffix(".tar.gz")
        assert all(name.startswith(f"{folder}/") for name in archive.getnames())
    default.unlink()


def test_an_existing_archive_stays(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "kit.tar.gz"
    out.write_bytes(b"mine")
    assert exit_code(monkeypatch, bundle.folder, "--out", out) == 1
    assert "already exists; add --force" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert exit_code(monkeypatch, bundle.folder, "--out", out, "--force") == 0
    assert tarfile.is_tarfile(out)


def test_a_broken_bundle_gives_no_kit(
    tmp_path: Path,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken, _ = tiny_bundle(tmp_path, tiny_model, tiny_images)
    path = broken.path(broken.artifact("edge_int8_onnx"))
    path.write_bytes(path.read_bytes()[:-1])
    assert exit_code(monkeypatch, broken.folder, "--out", tmp_path / "kit.tar.gz") == 1
    assert "edge_int8.onnx" in capsys.readouterr().err
    assert not (tmp_path / "kit.tar.gz").exists()
