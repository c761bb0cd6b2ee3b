"""A bundle with .ort, .tflite and .pte: exported, verified, checked; and without the extras."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from baseline.datasets import ImageSplits
from export import optional_formats
from export.bundle import Bundle, load_bundle
from export.bundle_errors import InconsistentManifestError, MalformedArtifactError
from export.optional_formats import require_writers
from records.errors import ArtifactError, BundleError, UnsupportedHereError
from records.parity import CheckRecord
from runtime_check import availability
from runtime_check.check import check_bundle
from runtime_check.machine import needs_precise_mode
from runtime_check.ort import OrtMobileRuntime, OrtRuntime
from runtime_check.runtime import runtime_for
from tests.runtime_check.tiny_bundle import resealed, tiny_bundle

if TYPE_CHECKING:
    from torch import nn

FORMATS = ("ptl", "onnx", "ort", *(["tflite"] if find_spec("ai_edge_litert") else []))
Exported = tuple[Bundle, ImageSplits]
#: What x86 CPUs without VNNI compute wrongly.
SATURATING = {"edge_int8_ort", "edge_int8_wire_ort"}


needs_litert = pytest.mark.skipif("tflite" not in FORMATS, reason="the extra litert is missing")


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Exported:
    return tiny_bundle(tmp_path_factory.mktemp("formats"), tiny_model, tiny_images, 8, FORMATS)


@pytest.fixture(scope="module")
def checked(exported: Exported) -> CheckRecord:
    bundle, splits = exported
    return check_bundle(bundle, splits.victim)


def rows(record: CheckRecord, artifact: str) -> list[tuple[str, str, int, float]]:
    return [
        (row.runtime, row.mode, row.lsb.max_lsb, row.lsb.share_identical)
        for row in record.artifacts
        if row.artifact == artifact and row.lsb is not None
    ]


@pytest.mark.parametrize("end", ["edge_int8", "edge_int8_wire"])
def test_ort_gives_what_the_qdq_onnx_gives(exported: Exported, end: str) -> None:
    bundle, _ = exported
    images = np.random.default_rng(0).standard_normal((7, 3, 32, 32)).astype(np.float32)
    outputs = []
    # One mode: an .ort file knows no other, and without VNNI .onnx takes the precise one.
    for name, runtime in (
        (f"{end}_onnx", OrtRuntime("default")),
        (f"{end}_ort", OrtMobileRuntime()),
    ):
        outputs.append(runtime.load(bundle, bundle.artifact(name)).run(images))
    np.testing.assert_array_equal(outputs[0], outputs[1])


@needs_litert
@pytest.mark.parametrize("end", ["edge_int8", "edge_int8_wire"])
def test_tflite_is_eager_int8_but_for_ties(checked: CheckRecord, end: str) -> None:
    ((runtime, mode, max_lsb, identical),) = rows(checked, f"{end}_tflite")
    assert (runtime, mode) == ("litert", "xnnpack")
    assert max_lsb <= 1
    assert identical >= 0.999


def test_every_gate_of_the_added_formats_passes(checked: CheckRecord) -> None:
    gates = [gate for gate in checked.gates if gate.artifact.endswith(("_ort", "_tflite"))]
    assert gates or needs_precise_mode()
    assert all(gate.passed for gate in gates), gates
    skipped = {skip.artifact for skip in checked.skipped}
    assert skipped == (SATURATING if needs_precise_mode() else set())


def test_where_int8_saturates_an_ort_file_is_skipped_by_name(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, splits = exported
    monkeypatch.setattr(availability, "needs_precise_mode", lambda: True)
    record = check_bundle(bundle, splits.victim)
    assert {skip.artifact for skip in record.skipped} == SATURATING
    assert all("no VNNI" in skip.reason for skip in record.skipped)
    assert "edge_int8_onnx" in {row.artifact for row in record.artifacts}
    monkeypatch.setattr(availability, "needs_precise_mode", lambda: False)
    assert availability.why_not_here(bundle.artifact("edge_int8_ort")) is None


def test_without_an_extra_its_artifacts_are_skipped_with_the_reason(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, splits = exported
    if "tflite" not in FORMATS:
        pytest.skip("the extra litert is missing: there is no artifact of it to skip")
    monkeypatch.setattr(
        availability, "find_spec", lambda name: None if name == "ai_edge_litert" else object()
    )
    record = check_bundle(bundle, splits.victim)
    skipped = [skip for skip in record.skipped if skip.artifact not in SATURATING]
    assert [skip.artifact for skip in skipped] == [
        "edge_fp32_tflite",
        "edge_int8_tflite",
        "edge_int8_wire_tflite",
    ]
    assert all(".[litert]" in skip.reason for skip in skipped)
    assert not any(row.runtime == "litert" for row in record.artifacts)
    with pytest.raises(UnsupportedHereError, match="litert"):
        runtime_for(bundle.artifact("edge_int8_tflite"))


@pytest.mark.parametrize(("word", "extra"), [("pte", "executorch"), ("tflite", "litert")])
def test_a_format_without_its_package_exits_3(
    word: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional_formats, "find_spec", lambda name: None)
    require_writers(("ptl", "onnx", "ort"))
    with pytest.raises(UnsupportedHereError, match=rf"'\.\[{extra}\]'") as raised:
        require_writers(("ptl", "onnx", word))  # type: ignore[arg-type]
    assert raised.value.exit_code == 3


def test_a_bundle_must_hold_what_its_recipe_names(exported: Exported, tmp_path: Path) -> None:
    bundle, _ = exported
    shutil.copytree(bundle.folder, tmp_path / "less")
    (tmp_path / "less" / "edge_int8.ort").unlink()
    kept = tuple(a for a in bundle.manifest.artifacts if a.name != "edge_int8_ort")
    fewer = Bundle(bundle.folder, _with(bundle, artifacts=kept).manifest)
    resealed(fewer, tmp_path / "less")
    with pytest.raises(InconsistentManifestError, match="'edge_int8_ort' is missing"):
        load_bundle(tmp_path / "less")


def _with(bundle: Bundle, **changes: object) -> Bundle:
    import msgspec

    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, **changes))


@pytest.mark.parametrize("file", ["edge_int8.ort", "edge_int8.tflite"])
def test_a_truncated_file_is_refused_before_any_runtime(
    exported: Exported, tmp_path: Path, file: str
) -> None:
    bundle, _ = exported
    if not (bundle.folder / file).exists():
        pytest.skip("the extra is missing: the bundle has no such file")
    shutil.copytree(bundle.folder, tmp_path / "cut")
    path = tmp_path / "cut" / file
    path.write_bytes(path.read_bytes()[:-400])
    resealed(bundle, tmp_path / "cut")
    with pytest.raises(MalformedArtifactError):
        load_bundle(tmp_path / "cut")


@pytest.mark.parametrize("suffix", [".ort", ".tflite"])
def test_the_float_file_in_place_of_the_wire_is_refused(
    exported: Exported, tmp_path: Path, suffix: str
) -> None:
    bundle, _ = exported
    if not (bundle.folder / f"edge_int8{suffix}").exists():
        pytest.skip("the extra is missing: the bundle has no such file")
    shutil.copytree(bundle.folder, tmp_path / "swapped")
    source = bundle.folder / f"edge_int8{suffix}"
    shutil.copyfile(source, tmp_path / "swapped" / f"edge_int8_wire{suffix}")
    resealed(bundle, tmp_path / "swapped")
    with pytest.raises(BundleError, match="manifest says"):
        load_bundle(tmp_path / "swapped")


@needs_litert
def test_litert_refuses_another_batch_and_takes_any_size(exported: Exported) -> None:
    bundle, _ = exported
    artifact = bundle.artifact("edge_int8_wire_tflite")
    loaded = runtime_for(artifact).load(bundle, artifact)
    images = np.random.default_rng(1).standard_normal((5, 3, 32, 32)).astype(np.float32)
    whole = loaded.run(images)
    parts = [loaded.run(images[:1]), loaded.run(images[1:])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    with pytest.raises(ArtifactError, match="takes float32"):
        loaded.run(images[:, :, :16])
