from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from msgspec.structs import replace

from baseline.preprocessing import preprocess
from benchmarks.victims import load_victims
from benchmarks.wire_size import MAX_IMAGES, compressed_size, wire_size
from export.bundle import Bundle
from records.errors import ArtifactError
from records.recipe import DataRecipe
from tests.benchmarks.toy_bundle import CHANNELS, SIDE, toy_bundle


def _images(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    ramp = np.linspace(0, 200, SIDE, dtype=np.float64)[None, None, :, None]
    shift = np.arange(count, dtype=np.float64)[:, None, None, None] % 50
    return np.broadcast_to(ramp + shift, (count, SIDE, SIDE, 3)).astype(np.uint8)


def test_raw_bytes_follow_from_the_shapes(tmp_path: Path) -> None:
    wire = wire_size(toy_bundle(tmp_path), None, reason="no images on a desert island")
    assert wire.raw_bytes == CHANNELS * SIDE * SIDE
    assert wire.bits == 8
    assert wire.packed_bytes == wire.raw_bytes
    assert wire.float_bytes == 4 * wire.raw_bytes
    assert wire.image_bytes == 3 * SIDE * SIDE
    assert wire.compressed is None
    assert wire.image_compressed is None
    assert wire.not_measured == "no images on a desert island"


def test_compressed_bytes_are_those_of_what_the_artifact_sends(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path)
    images = _images(230)
    wire = wire_size(bundle, images)
    session = onnxruntime.InferenceSession(
        tmp_path / "edge_int8_wire_onnx.onnx", providers=["CPUExecutionProvider"]
    )
    batch = preprocess(images, bundle.manifest.preprocessing)
    sent = [session.run(None, {"input": batch[i : i + 1]})[0] for i in range(len(images))]
    sizes = [len(zlib.compress(tensor.tobytes(), 6)) for tensor in sent]
    assert wire.compressed is not None
    assert wire.compressed.images == 230
    assert wire.compressed.mean == pytest.approx(np.mean(sizes))
    assert wire.compressed.p95 == np.quantile(sizes, 0.95, method="inverted_cdf")
    assert wire.artifact == "edge_int8_wire_onnx"
    assert wire.not_measured is None


def test_only_the_first_thousand_images_are_used(tmp_path: Path) -> None:
    wire = wire_size(toy_bundle(tmp_path), _images(MAX_IMAGES + 5))
    assert wire.compressed is not None
    assert wire.image_compressed is not None
    assert wire.compressed.images == wire.image_compressed.images == MAX_IMAGES


def test_noise_does_not_compress_and_a_ramp_does() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 1000), dtype=np.uint8)
    assert compressed_size(noise).p5 >= 1000
    assert compressed_size(np.zeros((4, 1000), dtype=np.uint8)).p95 < 20


def test_without_a_wire_artifact_nothing_is_compressed(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path)
    floats = tuple(a for a in bundle.manifest.artifacts if a.boundary == "float")
    poorer = type(bundle)(tmp_path, replace(bundle.manifest, artifacts=floats))
    wire = wire_size(poorer, _images(3))
    assert wire.compressed is None
    assert wire.artifact is None
    assert "wire" in (wire.not_measured or "")


def _npz(path: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> DataRecipe:
    labels = np.arange(len(images), dtype=np.int64) % 4
    train = 255 - images
    classes = np.array(["a", "b", "c", "d"])
    np.savez(path, train_x=train, train_y=labels, test_x=images, test_y=labels, classes=classes)
    return DataRecipe(source=f"npz:{path}", native_size=SIDE)


def test_the_bundles_own_victims_are_loaded_and_proven(tmp_path: Path) -> None:
    from baseline.datasets import load_splits

    images = np.random.default_rng(1).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)
    recipe = _npz(tmp_path / "data.npz", images)
    victim = load_splits(recipe).victim
    bundle = toy_bundle(tmp_path / "b", data=recipe, victims=(victim.images, victim.labels))
    loaded, reason = load_victims(bundle.manifest)
    assert reason is None
    assert loaded is not None
    np.testing.assert_array_equal(loaded, victim.images)


def test_other_images_are_not_taken_for_the_victims(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)
    recipe = _npz(tmp_path / "data.npz", images)
    loaded, reason = load_victims(toy_bundle(tmp_path / "b", data=recipe).manifest)
    assert loaded is None
    assert reason is not None
    assert "cannot be loaded here" in reason


def test_missing_data_is_a_reason_and_no_error(tmp_path: Path) -> None:
    recipe = DataRecipe(source=f"npz:{tmp_path / 'nowhere.npz'}", native_size=SIDE)
    loaded, reason = load_victims(toy_bundle(tmp_path, data=recipe).manifest)
    assert loaded is None
    assert "nowhere.npz" in (reason or "")


def _with_bits(bundle: Bundle, bits: Any) -> Bundle:
    wire = replace(bundle.manifest.wire, bits=bits)
    return type(bundle)(bundle.folder, replace(bundle.manifest, wire=wire))


def test_packed_bytes_follow_from_the_bits(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path)
    for bits in (6, 4, 3, 2, 1):
        wire = wire_size(_with_bits(bundle, bits), None)
        assert wire.bits == bits
        assert wire.packed_bytes == CHANNELS * SIDE * SIDE * bits // 8
        assert wire.raw_bytes == CHANNELS * SIDE * SIDE


def test_what_does_not_fit_the_bits_is_not_measured_but_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"sent the value \d+, over the 1 of its 1 bits"):
        wire_size(_with_bits(toy_bundle(tmp_path), 1), _images(3))
