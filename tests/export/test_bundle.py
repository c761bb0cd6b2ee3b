"""A good bundle loads, says what it holds, and is read again only while it is the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from export.bundle import Bundle, bundle_id_of, load_bundle, seal
from export.bundle_errors import HashMismatchError, ManifestError
from records import codec
from records.errors import BundleError
from records.manifest import MANIFEST_NAME, Manifest
from tests.export import hostile
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn


@pytest.fixture(scope="module")
def good(
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("good"), tiny_model, tiny_images)[0]


def test_a_good_bundle_loads_with_all_its_artifacts(good: Bundle) -> None:
    bundle = load_bundle(good.folder)
    assert {a.name: a.file for a in bundle.manifest.artifacts} == hostile.FILES
    assert len(bundle.edges()) == 6
    assert {a.name for a in bundle.edges("fp32")} == {"edge_fp32_lite", "edge_fp32_onnx"}
    assert {a.precision for a in bundle.edges("int8")} == {"int8"}
    for artifact in bundle.manifest.artifacts:
        assert bundle.artifact(artifact.name) is artifact
        assert bundle.path(artifact).read_bytes() == bundle.read(artifact)


def test_the_verified_bytes_run(good: Bundle) -> None:
    data = good.read(good.artifact("edge_int8_wire_onnx"))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (wire,) = session.run(None, {"input": np.zeros((2, 3, 32, 32), np.float32)})
    assert wire.shape == (2, *good.manifest.wire.shape)
    assert wire.dtype == np.uint8


def test_an_unknown_artifact_is_named(good: Bundle) -> None:
    with pytest.raises(BundleError, match="no artifact 'edge_int4'"):
        good.artifact("edge_int4")


def test_a_file_that_changes_after_loading_is_not_read(good: Bundle, tmp_path: Path) -> None:
    shutil.copytree(good.folder, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    artifact = bundle.artifact("edge_fp32_onnx")
    path = bundle.path(artifact)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(HashMismatchError, match=r"edge_fp32\.onnx"):
        bundle.read(artifact)


def test_the_seal_covers_every_field_but_itself(good: Bundle) -> None:
    manifest = good.manifest
    assert bundle_id_of(manifest) == manifest.bundle_id
    other = msgspec.structs.replace(manifest, bundle_id=64 * "0")
    assert bundle_id_of(other) == manifest.bundle_id
    changes: list[dict[str, Any]] = [{"split": "block1"}, {"engine": "x86"}, {"versions": {}}]
    for change in changes:
        assert bundle_id_of(msgspec.structs.replace(manifest, **change)) != manifest.bundle_id
    fields = {
        name: value
        for name, value in msgspec.structs.asdict(manifest).items()
        if name not in ("bundle_id", "schema")
    }
    assert seal(**fields) == manifest


def test_the_seal_is_over_the_file_and_not_over_what_this_version_makes_of_it(
    good: Bundle, tmp_path: Path
) -> None:
    """A bundle from before a recipe key was added (here: without ``data.download``) loads."""
    shutil.copytree(good.folder, tmp_path / "old")
    hostile.edit_and_seal(tmp_path / "old", lambda t: t["recipe"]["data"].pop("download"))
    assert load_bundle(tmp_path / "old").manifest.recipe == good.manifest.recipe


def test_other_valid_weights_resealed_are_another_bundle(good: Bundle, tmp_path: Path) -> None:
    """The limit of what can be verified without a signature."""
    folder = tmp_path / "resealed"
    shutil.copytree(good.folder, folder)
    hostile.edit_and_seal(folder, lambda t: t.update(checkpoint_sha256=64 * "1"))
    bundle = load_bundle(folder)
    assert bundle.manifest.bundle_id != good.manifest.bundle_id


def test_the_manifest_must_be_what_the_writer_writes(good: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(good.folder, folder)
    data = (folder / MANIFEST_NAME).read_bytes()
    assert data == codec.encode(good.manifest)
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(good.manifest))
    with pytest.raises(ManifestError, match="canonical"):
        load_bundle(folder)
    assert msgspec.json.decode(data, type=Manifest) == good.manifest


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="is missing"):
        load_bundle(tmp_path)


def test_loading_is_fast_and_needs_neither_torch_nor_onnx(good: Bundle) -> None:
    program = (
        "import sys, pathlib; from export.bundle import load_bundle;"
        f"load_bundle(pathlib.Path({str(good.folder)!r}));"
        "print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    for name in ("torch", "onnx", "onnxruntime", "google", "safetensors"):
        assert f"'{name}'" not in done.stdout
    seconds = []
    for _ in range(5):
        start = time.process_time()
        load_bundle(good.folder)
        seconds.append(time.process_time() - start)
    # About 10 ms; the limit leaves room for a slow machine.
    assert min(seconds) < 0.5
