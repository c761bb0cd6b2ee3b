"""A whole check in the real runtimes: an honest bundle passes, each fault fails its own gate."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper

from baseline.datasets import ImageSet, ImageSplits, read_npz
from baseline.preprocessing import preprocess
from export.bundle import Bundle
from records import codec
from records.codec import without_timings
from records.errors import ArtifactError, DataError, InputError, OverwriteError
from records.hashing import sha256_file
from records.parity import CheckRecord
from runtime_check import passes
from runtime_check.check import check_bundle
from runtime_check.gates import failed, failure_sentence
from runtime_check.ort import OrtRuntime, compared_modes, ort_mode
from runtime_check.runtime import runtime_for
from runtime_check.victims import victims_for
from tests.runtime_check.tiny_bundle import (
    edited_onnx,
    replaced,
    resealed,
    tiny_bundle,
    with_varied_classes,
    wrong_weights,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Tiny:
    folder: Path
    bundle: Bundle
    splits: ImageSplits
    #: The same network with other weights, exported the same way.
    wrong: Bundle


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Tiny:
    folder = tmp_path_factory.mktemp("check")
    model = with_varied_classes(tiny_model, tiny_images)
    bundle, splits = tiny_bundle(folder / "right", model, tiny_images)
    wrong, _ = tiny_bundle(folder / "wrong", wrong_weights(model), tiny_images)
    return Tiny(folder, bundle, splits, wrong)


@pytest.fixture(scope="module")
def record(tiny: Tiny) -> CheckRecord:
    return check_bundle(tiny.bundle, tiny.splits.victim)


def failures(found: CheckRecord) -> set[tuple[str, str]]:
    return {(gate.name, gate.artifact) for gate in failed(found.gates)}


def test_an_honest_bundle_passes_every_gate(record: CheckRecord) -> None:
    assert failures(record) == set()
    assert record.passed
    assert record.evidence is None


def test_every_artifact_ran_in_every_mode(record: CheckRecord) -> None:
    modes = compared_modes()
    expected = {("edge_fp32_onnx", "default"), ("edge_fp32_lite", "qnnpack")}
    expected |= {("eager_int8_graph", "qnnpack")}
    expected |= {(f"edge_int8{wire}_lite", "qnnpack") for wire in ("", "_wire")}
    expected |= {(f"edge_int8{wire}_onnx", mode) for wire in ("", "_wire") for mode in modes}
    rows = {(row.artifact, row.mode): row for row in record.artifacts}
    assert set(rows) == expected
    assert len(rows) == len(record.artifacts)
    assert {
        mode for (name, mode), row in rows.items() if row.gated and name == "edge_int8_onnx"
    } == {
        ort_mode().mode,
        "optimizations-off",
    }
    assert {row.artifact for row in record.artifacts if row.reference} == {"eager_int8_graph"}


def test_lite_is_eager_bit_for_bit_and_so_is_its_accuracy(record: CheckRecord) -> None:
    rows = {row.artifact: row for row in record.artifacts}
    for name in ("edge_int8_lite", "edge_int8_wire_lite"):
        lsb = rows[name].lsb
        assert lsb is not None
        assert (lsb.max_lsb, lsb.share_identical, lsb.parity_sqnr_db) == (0, 1.0, None)
        assert rows[name].accuracy.agreement == 1.0
        assert rows[name].accuracy.top1 == rows["eager_int8_graph"].accuracy.top1


def test_figures_agree_with_whole_arrays(tiny: Tiny, record: CheckRecord) -> None:
    """The streamed record against one pass over everything, computed another way."""
    bundle, victims = tiny.bundle, tiny.splits.victim
    batch = preprocess(victims.images, bundle.manifest.preprocessing)

    def run(name: str) -> npt.NDArray[np.float64]:
        artifact = bundle.artifact(name)
        found: npt.NDArray[np.float64] = (
            runtime_for(artifact).load(bundle, artifact).run(batch).astype(np.float64)
        )
        return found

    wire = bundle.manifest.wire
    eager, real = run("eager_int8_graph"), run("edge_int8_onnx")
    steps = np.rint((real - eager) / wire.scale)
    row = next(
        r for r in record.artifacts if (r.artifact, r.mode) == ("edge_int8_onnx", ort_mode().mode)
    )
    assert row.lsb is not None
    assert row.lsb.values == eager.size
    assert row.lsb.max_lsb == np.abs(steps).max()
    assert row.lsb.share_within_1_lsb == np.mean(np.abs(steps) <= 1)
    if np.any(steps):
        sqnr = 10 * np.log10(np.sum(eager**2) / np.sum((eager - real) ** 2))
        assert row.lsb.parity_sqnr_db == pytest.approx(sqnr, abs=1e-3)
    server = OrtRuntime().load(bundle, bundle.artifact("server_fp32_onnx"))
    fp32 = server.run(run("edge_fp32_onnx").astype(np.float32)).argmax(axis=1)
    int8 = server.run(real.astype(np.float32)).argmax(axis=1)
    assert row.accuracy.top1 == np.mean(int8 == victims.labels)
    assert row.accuracy.drop_points is not None
    drop = np.mean(fp32 == victims.labels) - np.mean(int8 == victims.labels)
    assert row.accuracy.drop_points.estimate == pytest.approx(100 * drop)


def test_the_same_check_gives_the_same_record(tiny: Tiny, record: CheckRecord) -> None:
    again = check_bundle(tiny.bundle, tiny.splits.victim)
    assert without_timings(again) == without_timings(record)
    assert codec.decode(codec.encode(record), CheckRecord, "it") == record


def test_progress_ends_at_the_number_of_victims(tiny: Tiny) -> None:
    steps: list[tuple[str, int, int]] = []
    victims = tiny.splits.victim.take(np.arange(60))
    check_bundle(tiny.bundle, victims, progress=lambda *step: steps.append(step))
    assert steps == [("check", 0, 60), ("check", 50, 60), ("check", 60, 60)]


def _gates_of(name: str) -> set[tuple[str, str]]:
    return {(gate, name) for gate in ("top1_agreement", "accuracy_drop_points")}


@pytest.mark.parametrize("name", ["edge_int8_lite", "edge_int8_wire_lite"])
def test_wrong_weights_in_a_lite_artifact_fail(tiny: Tiny, tmp_path: Path, name: str) -> None:
    source = tiny.wrong.path(tiny.wrong.artifact(name))
    bundle = replaced(tiny.bundle, tmp_path / "b", name, source)
    evidence = tmp_path / "evidence.npz"
    found = check_bundle(bundle, tiny.splits.victim, evidence=evidence)
    assert {("lite_max_lsb", name), *_gates_of(name)} <= failures(found)
    assert {artifact for _, artifact in failures(found)} <= {name, "edge_int8_wire_lite"}
    assert not found.passed
    assert name in failure_sentence(found)


@pytest.mark.parametrize("name", ["edge_int8_onnx", "edge_int8_wire_onnx"])
def test_wrong_weights_in_an_onnx_artifact_fail(tiny: Tiny, tmp_path: Path, name: str) -> None:
    source = tiny.wrong.path(tiny.wrong.artifact(name))
    found = check_bundle(replaced(tiny.bundle, tmp_path / "b", name, source), tiny.splits.victim)
    assert {("onnx_share_within_1_lsb", name), *_gates_of(name)} <= failures(found)
    modes = {g.mode for g in failed(found.gates) if g.artifact == name}
    assert modes == {ort_mode().mode, "optimizations-off"}


def _scale_weights(model: onnx.ModelProto) -> None:
    """Make every weight scale 10 % larger: a calibration that was not FX's."""
    by_name = {value.name: value for value in model.graph.initializer}
    for node in model.graph.node:
        # A bias' scale is a product with the weight's, which moves along.
        if node.op_type == "DequantizeLinear" and node.input[0] in by_name:
            scale = by_name.get(node.input[1])
            if scale is None:
                continue
            scale.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.1), scale.name)
            )


def test_a_perturbed_scale_inside_an_onnx_artifact_fails(tiny: Tiny, tmp_path: Path) -> None:
    bundle = edited_onnx(tiny.bundle, tmp_path / "b", "edge_int8_onnx", _scale_weights)
    found = check_bundle(bundle, tiny.splits.victim)
    assert ("onnx_share_within_1_lsb", "edge_int8_onnx") in failures(found)


def _shift_end(model: onnx.ModelProto) -> None:
    """Add 1e-6 to the float boundary: nothing that top-1 or a whole LSB could show."""
    end = next(node for node in model.graph.node if "boundary" in node.output)
    end.output[0] = "before"
    shift = numpy_helper.from_array(np.array(1e-6, np.float32), "shift")
    model.graph.initializer.append(shift)
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "shift"], ["boundary"]))


def test_a_shifted_float_boundary_is_not_its_wire(tiny: Tiny, tmp_path: Path) -> None:
    bundle = edited_onnx(tiny.bundle, tmp_path / "b", "edge_int8_onnx", _shift_end)
    evidence = tmp_path / "evidence.npz"
    found = check_bundle(bundle, tiny.splits.victim, evidence=evidence)
    assert failures(found) == {("wire_equals_float", "edge_int8_wire_onnx")}
    equality = next(
        e for e in found.wire_equality if e.mode == ort_mode().mode and "onnx" in e.wire
    )
    assert equality.first_image == 0
    row = next(r for r in found.artifacts if r.artifact == "edge_int8_onnx" and r.gated)
    assert row.lsb is not None
    assert row.lsb.off_grid > 0
    kept = read_npz(evidence)
    key = f"edge_int8_wire_onnx.{ort_mode().mode}"
    sides = (f"{key}.wire_float_boundary", f"{key}.wire_dequantized")
    shifted, sent = (kept[side].astype(np.float64) for side in sides)
    assert np.allclose(shifted - sent, 1e-6, atol=5e-7)


def test_convolutions_left_in_float_fail(tiny: Tiny, tmp_path: Path) -> None:
    source = tiny.bundle.path(tiny.bundle.artifact("edge_fp32_onnx"))
    found = check_bundle(
        replaced(tiny.bundle, tmp_path / "b", "edge_int8_onnx", source), tiny.splits.victim
    )
    assert ("convolutions_fused", "edge_int8_onnx") in failures(found)
    fusion = {row.artifact: row for row in found.fusion}
    assert fusion["edge_int8_onnx"].fused == 0 < fusion["edge_int8_onnx"].convolutions
    assert fusion["edge_int8_wire_onnx"].fused == fusion["edge_int8_wire_onnx"].convolutions


def test_another_fp32_edge_fails(tiny: Tiny, tmp_path: Path) -> None:
    name = "edge_fp32_lite"
    source = tiny.wrong.path(tiny.wrong.artifact(name))
    evidence = tmp_path / "evidence.npz"
    found = check_bundle(
        replaced(tiny.bundle, tmp_path / "b", name, source), tiny.splits.victim, evidence=evidence
    )
    assert failures(found) == {("fp32_parity_sqnr_db", name)}
    assert {f"{name}.qnnpack.fp32_{part}" for part in ("index", "images", "artifact")} <= set(
        read_npz(evidence)
    )


def test_evidence_shows_the_worst_images(tiny: Tiny, tmp_path: Path) -> None:
    name = "edge_int8_wire_lite"
    source = tiny.wrong.path(tiny.wrong.artifact(name))
    bundle = replaced(tiny.bundle, tmp_path / "b", name, source)
    path = tmp_path / "kept" / "evidence.npz"
    found = check_bundle(bundle, tiny.splits.victim, evidence=path)
    assert found.evidence is not None
    assert found.evidence.sha256 == sha256_file(path)
    kept = read_npz(path)
    row = next(r for r in found.artifacts if r.artifact == name)
    assert row.lsb is not None
    index = kept[f"{name}.qnnpack.worst_index"]
    assert index.tolist() == [image.index for image in row.lsb.worst]
    images = kept[f"{name}.qnnpack.worst_images"]
    assert np.array_equal(images, tiny.splits.victim.images[index])
    # The kept output is what the artifact really gives for the kept image.
    artifact = bundle.artifact(name)
    batch = preprocess(images.astype(np.uint8), bundle.manifest.preprocessing)
    again = runtime_for(artifact).load(bundle, artifact).run(batch)
    assert np.array_equal(kept[f"{name}.qnnpack.worst_artifact"], again)
    assert len(kept[f"{name}.qnnpack.lost_index"]) > 0
    with pytest.raises(OverwriteError):
        check_bundle(bundle, tiny.splits.victim, evidence=path)


def test_a_wire_grid_that_is_not_the_reference_s_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.bundle.folder, tmp_path / "b")
    wire = tiny.bundle.manifest.wire
    other = msgspec.structs.replace(wire, scale=wire.scale * 1.001)
    bundle = resealed(tiny.bundle, tmp_path / "b", wire=other)
    with pytest.raises(ArtifactError, match="not on the manifest's wire grid"):
        check_bundle(bundle, tiny.splits.victim)


def test_no_image_and_images_of_another_size_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="at least one image"):
        check_bundle(tiny.bundle, tiny.splits.victim.take(np.arange(0)))
    cropped = ImageSet(tiny.splits.victim.images[:, :16, :16].copy(), tiny.splits.victim.labels)
    with pytest.raises(DataError):
        check_bundle(tiny.bundle, cropped)


def test_victims_are_proven_by_their_hash(tiny: Tiny, tmp_path: Path) -> None:
    manifest = tiny.bundle.manifest
    whole = victims_for(manifest)
    assert whole.first_of is None
    first = victims_for(manifest, limit=10)
    assert (len(first.images), first.first_of) == (10, len(whole.images))
    arrays = read_npz(tiny.folder / "right" / "data.npz")
    arrays["test_x"] = arrays["test_x"][::-1]
    np.savez(tmp_path / "other.npz", allow_pickle=False, **arrays)
    other = victims_for(manifest, source=f"npz:{tmp_path / 'other.npz'}")
    record = check_bundle(tiny.bundle, other)
    assert not record.victims.is_manifest_set
    assert record.victims.source.endswith("other.npz")
    data = msgspec.structs.replace(manifest.recipe.data, source=f"npz:{tmp_path / 'other.npz'}")
    recipe = msgspec.structs.replace(manifest.recipe, data=data)
    with pytest.raises(DataError, match="not those that the bundle was made with"):
        victims_for(msgspec.structs.replace(manifest, recipe=recipe))
    with pytest.raises(DataError, match="classes"):
        victims_for(manifest, source="photos")
    with pytest.raises(InputError, match="unknown"):
        victims_for(manifest, source="nowhere")


def test_a_pass_refuses_an_artifact_of_another_shape(tiny: Tiny) -> None:
    from runtime_check.lsb import reference_batch

    artifact = tiny.bundle.artifact("edge_int8_wire_onnx")
    runtime = OrtRuntime()
    one = passes.Int8Pass(
        artifact, runtime, runtime.load(tiny.bundle, artifact), tiny.bundle.manifest.wire
    )
    reference = reference_batch(np.zeros((2, 1, 1, 1), np.uint8), tiny.bundle.manifest.wire)
    with pytest.raises(ArtifactError, match="edge_int8_wire_onnx"):
        one.compare(np.zeros((2, 3, 32, 32), np.float32), reference)


def test_threads_are_given_to_every_runtime(tiny: Tiny) -> None:
    before = torch.get_num_threads()
    victims = tiny.splits.victim.take(np.arange(50))
    record = check_bundle(tiny.bundle, victims, threads=2)
    assert record.threads == 2
    assert torch.get_num_threads() == before
