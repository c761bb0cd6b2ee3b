"""``edgeveil check``: records, exit codes, and what it refuses to overwrite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from baseline.datasets import read_npz
from records import codec
from records.parity import CheckRecord
from tests.commands.exit_codes import exit_code_of
from tests.runtime_check.tiny_bundle import (
    replaced,
    tiny_bundle,
    with_varied_classes,
    wrong_weights,
)

if TYPE_CHECKING:
    from torch import nn

    from export.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    model = with_varied_classes(tiny_model, tiny_images)
    made, _ = tiny_bundle(tmp_path_factory.mktemp("check_command"), model, tiny_images)
    return made


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return exit_code_of(monkeypatch, "check", *arguments)


def test_a_good_bundle_exits_0_and_writes_its_record_beside_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, bundle.folder) == 0
    shown = capsys.readouterr().out
    assert "ONNX Runtime ran in mode" in shown
    assert "the manifest's victims" in shown
    assert "FAIL" not in shown
    record = codec.read(bundle.folder.parent / "check.json", CheckRecord)
    assert record.passed
    assert record.victims.is_manifest_set
    assert record.bundle_id == bundle.manifest.bundle_id
    assert exit_code(monkeypatch, bundle.folder) == 1
    assert "check.json already exists" in capsys.readouterr().err
    assert exit_code(monkeypatch, bundle.folder, "--force", "--limit", 20) == 0
    record = codec.read(bundle.folder.parent / "check.json", CheckRecord)
    assert (record.victims.count, record.victims.first_of) == (20, 160)
    assert not record.victims.is_manifest_set


def test_json_is_the_record_and_nothing_else(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "c.json"
    code = exit_code(
        monkeypatch, bundle.folder, "--limit", 20, "--threads", 2, "--out", out, "--json"
    )
    assert code == 0
    shown = capsys.readouterr().out
    assert msgspec.json.decode(shown, type=CheckRecord) == codec.read(out, CheckRecord)
    assert msgspec.json.decode(shown)["threads"] == 2


def test_a_failed_gate_exits_2_and_keeps_the_evidence(
    bundle: Bundle,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong, _ = tiny_bundle(tmp_path / "wrong", wrong_weights(tiny_model), tiny_images)
    name = "edge_int8_lite"
    bad = replaced(bundle, tmp_path / "bad" / "bundle", name, wrong.path(wrong.artifact(name)))
    assert exit_code(monkeypatch, bad.folder) == 2
    shown = capsys.readouterr()
    assert "FAIL" in shown.out
    assert f"{name} (qnnpack) lite_max_lsb" in shown.err
    record = codec.read(tmp_path / "bad" / "check.json", CheckRecord)
    assert not record.passed
    assert record.evidence is not None
    evidence = tmp_path / "bad" / record.evidence.file
    assert f"{name}.qnnpack.worst_images" in read_npz(evidence)
    # The evidence of an older check must not stand beside a record that passed.
    out = tmp_path / "bad" / "check.json"
    assert exit_code(monkeypatch, bundle.folder, "--out", out, "--force") == 0
    assert not evidence.exists()


def test_other_images_are_recorded_as_such(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = read_npz(bundle.folder.parent / "data.npz")
    arrays["test_x"] = arrays["test_x"][::-1]
    np.savez(tmp_path / "other.npz", allow_pickle=False, **arrays)
    out = tmp_path / "c.json"
    source = f"npz:{tmp_path / 'other.npz'}"
    exit_code(monkeypatch, bundle.folder, "--data", source, "--out", out)
    victims = codec.read(out, CheckRecord).victims
    assert (victims.source, victims.is_manifest_set) == (source, False)


def test_no_bundle_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, tmp_path / "none") == 1
    assert "is not a folder" in capsys.readouterr().err
