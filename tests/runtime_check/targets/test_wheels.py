from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from records.errors import UnsupportedHereError
from records.hashing import sha256_file
from runtime_check.targets.wheels import (
    EXECUTORCH_WHEELS,
    LITE_WHEELS,
    LITERT_WHEELS,
    RUNTIME_WHEELS,
    Wheel,
    WheelError,
    fetch,
    unpack,
)


def made(folder: Path, **members: str) -> Wheel:
    path = folder / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return Wheel("toy", "1.0", path.name, sha256_file(path))


def test_every_pin_names_one_file_of_its_version() -> None:
    for wheel in (*RUNTIME_WHEELS, *LITE_WHEELS, *EXECUTORCH_WHEELS, *LITERT_WHEELS):
        name = wheel.distribution.replace("-", "_")
        assert wheel.file.startswith(f"{name}-{wheel.version}-")
        assert len(wheel.sha256) == 64
        assert "aarch64" in wheel.file or wheel.file.endswith("-any.whl")


@pytest.mark.parametrize(
    ("extra", "distribution"),
    [("export", "onnxruntime"), ("executorch", "executorch"), ("litert", "ai-edge-litert")],
)
def test_the_target_has_the_runtime_that_the_bundle_was_checked_with(
    extra: str, distribution: str
) -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[3] / "setup.cfg")
    pinned = (*RUNTIME_WHEELS, *EXECUTORCH_WHEELS, *LITERT_WHEELS)
    (wheel,) = (w for w in pinned if w.distribution == distribution)
    wanted = setup["options.extras_require"][extra].split()
    assert f"{distribution}=={wheel.version}" in wanted


def test_a_pinned_wheel_is_unpacked_without_what_only_compilers_read(tmp_path: Path) -> None:
    wheel = made(tmp_path, toy__a="1", torch__include__b="2", torch__lib__c="3")
    unpack([wheel], tmp_path, tmp_path / "site")
    found = {p.relative_to(tmp_path / "site").as_posix() for p in (tmp_path / "site").rglob("*")}
    assert found == {"toy", "toy/a", "torch", "torch/lib", "torch/lib/c"}


def test_another_file_under_the_pinned_name_is_not_unpacked(tmp_path: Path) -> None:
    wheel = made(tmp_path, toy__a="1")
    with (tmp_path / wheel.file).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(WheelError, match="not the pinned"):
        unpack([wheel], tmp_path, tmp_path / "site")
    assert not list((tmp_path / "site").iterdir())
    (tmp_path / wheel.file).unlink()
    with pytest.raises(WheelError, match="prepare the target again"):
        unpack([wheel], tmp_path, tmp_path / "site")


def test_no_member_leaves_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside", "1")
    unpack([Wheel("toy", "1.0", path.name, sha256_file(path))], tmp_path, tmp_path / "site")
    assert not (tmp_path / "outside").exists()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder that pip finds wheels in, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


METADATA = "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def whole(folder: Path) -> Wheel:
    path = folder / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy-1.0.dist-info/METADATA", METADATA)
        archive.writestr("toy-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("toy-1.0.dist-info/RECORD", "")
    return Wheel("toy", "1.0", path.name, sha256_file(path))


def test_pip_fetches_what_has_the_pinned_hash(index: Path, tmp_path: Path) -> None:
    wheel = whole(index)
    fetch([wheel], tmp_path / "got")
    assert sha256_file(tmp_path / "got" / wheel.file) == wheel.sha256


def test_pip_refuses_another_hash(index: Path, tmp_path: Path) -> None:
    wheel = whole(index)
    other = Wheel(wheel.distribution, wheel.version, wheel.file, "0" * 64)
    with pytest.raises(UnsupportedHereError, match="pip could not fetch"):
        fetch([other], tmp_path / "got")
    assert not (tmp_path / "got" / wheel.file).exists()


def test_no_network_is_said(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedHereError, match="pip could not fetch"):
        fetch(RUNTIME_WHEELS, tmp_path / "got")


def test_a_hanging_index_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 1.0)

    assert sys.executable
    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(UnsupportedHereError, match="did not arrive"):
        fetch(RUNTIME_WHEELS, tmp_path / "got")
