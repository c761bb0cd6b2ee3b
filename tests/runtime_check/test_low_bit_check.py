"""Bundles with few bits at the boundary: honest ones pass, edited ones are refused or fail."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from baseline.datasets import ImageSplits
from baseline.preprocessing import preprocess
from benchmarks.wire_size import wire_size
from export import bundle_errors as errors
from export.bundle import Bundle, load_bundle
from records.errors import ArtifactError
from runtime_check.check import check_bundle
from runtime_check.eager import GRAPH
from runtime_check.gates import failed
from runtime_check.packed_wire import pack, unpack
from runtime_check.runtime import boundary_features, runtime_for
from tests.export.hostile import Tree, edit_and_seal, read_tree
from tests.runtime_check.tiny_bundle import edited_onnx, resealed, tiny_bundle, with_varied_classes

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

WIRE_ONNX, FLOAT_ONNX = "edge_int8_wire_onnx", "edge_int8_onnx"


@dataclass(frozen=True)
class Low:
    bits: int
    bundle: Bundle
    splits: ImageSplits


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: nn.Module, tiny_images: npt.NDArray[Any]
) -> dict[int, Low]:
    folder = tmp_path_factory.mktemp("low")
    model = with_varied_classes(tiny_model, tiny_images)
    return {
        bits: Low(bits, *tiny_bundle(folder / str(bits), model, tiny_images, bits))
        for bits in (8, 4, 1)
    }


@pytest.mark.parametrize("bits", [4, 1])
def test_an_honest_bundle_passes_all_but_the_price_of_its_bits(
    made: dict[int, Low], bits: int
) -> None:
    low = made[bits]
    assert load_bundle(low.bundle.folder).manifest.wire.bits == bits
    found = check_bundle(low.bundle, low.splits.victim)
    missed = {gate.name for gate in failed(found.gates)}
    assert missed <= {"accuracy_drop_points"}  # the untrained network's, not the export's
    assert found.passed == (not missed)
    names = {gate.name for gate in found.gates}
    assert {"onnx_share_identical", "lite_max_lsb", "wire_equals_float"} <= names
    for row in found.artifacts:
        if row.runtime == "lite" and row.lsb is not None:
            assert row.lsb.max_lsb == 0
        if row.lsb is not None:
            assert row.lsb.off_grid == 0
            assert len(row.lsb.histogram) <= 2**bits


@pytest.mark.parametrize("bits", [4, 1])
def test_what_every_wire_artifact_sends_packs_and_unpacks(made: dict[int, Low], bits: int) -> None:
    bundle, images = made[bits].bundle, made[bits].splits.victim.images[:20]
    wire = bundle.manifest.wire
    batch = preprocess(images, bundle.manifest.preprocessing)
    for artifact in (a for a in bundle.edges("int8") if a.boundary == "wire"):
        q = runtime_for(artifact).load(bundle, artifact).run(batch)
        packed = pack(q, bits)
        assert packed.shape == (20, wire.packed_bytes)
        assert np.array_equal(unpack(packed, bits, wire.shape), q)
    size = wire_size(bundle, images)
    assert (size.bits, size.packed_bytes) == (bits, wire.packed_bytes)
    assert size.packed_bytes * 8 == bits * size.raw_bytes
    assert size.compressed is not None
    assert size.compressed.p95 <= wire.packed_bytes + 11  # zlib's own header and trailer


# --- edited manifests ----------------------------------------------------------------------------


def bits_edited(low: Low, folder: Path, bits: object, *, recipe: bool) -> Path:
    shutil.copytree(low.bundle.folder, folder)

    def edit(tree: Tree) -> None:
        tree["wire"]["bits"] = bits
        if recipe:
            tree["recipe"]["export"]["boundary_bits"] = bits
        tree["wire"]["zero_point"] = 0 if tree["wire"]["zero_point"] == 0 else 1

    edit_and_seal(folder, edit)
    return folder


@pytest.mark.parametrize(("bits", "to"), [(8, 4), (4, 8), (4, 2), (1, 2)])
def test_bits_that_are_not_the_recipes_are_refused(
    made: dict[int, Low], tmp_path: Path, bits: int, to: int
) -> None:
    folder = bits_edited(made[bits], tmp_path / "b", to, recipe=False)
    with pytest.raises(errors.InconsistentManifestError, match=f"{to} bits and the recipe asks"):
        load_bundle(folder)


@pytest.mark.parametrize("bits", [0, 5, 7, 9, "4", 4.5, None])
def test_bits_that_no_wire_has_are_refused(
    made: dict[int, Low], tmp_path: Path, bits: object
) -> None:
    folder = bits_edited(made[4], tmp_path / "b", bits, recipe=True)
    with pytest.raises(errors.ManifestError):
        load_bundle(folder)


def test_a_zero_point_outside_the_bits_is_refused(made: dict[int, Low], tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(made[4].bundle.folder, folder)
    edit_and_seal(folder, lambda tree: tree["wire"].update(zero_point=16))
    with pytest.raises(errors.InconsistentManifestError, match="zero point 16 of a wire of 4 bits"):
        load_bundle(folder)


@pytest.mark.parametrize(("bits", "to"), [(8, 4), (4, 2), (4, 1)])
def test_fewer_bits_than_the_artifacts_clip_to_are_refused(
    made: dict[int, Low], tmp_path: Path, bits: int, to: int
) -> None:
    folder = tmp_path / "b"
    shutil.copytree(made[bits].bundle.folder, folder)
    zero_point = read_tree(folder)["wire"]["zero_point"]

    def edit(tree: Tree) -> None:
        tree["wire"]["bits"] = tree["recipe"]["export"]["boundary_bits"] = to

    edit_and_seal(folder, edit)
    expected: type[Exception] = errors.ArtifactMismatchError
    if zero_point >= 2**to:
        expected = errors.InconsistentManifestError
    with pytest.raises(expected):
        load_bundle(folder)


# --- edited artifacts ----------------------------------------------------------------------------


def last_clip(model: onnx.ModelProto) -> onnx.NodeProto:
    clips: list[onnx.NodeProto] = [n for n in model.graph.node if n.op_type == "Clip"]
    return clips[-1]


def without_clip(model: onnx.ModelProto) -> None:
    clip = last_clip(model)
    for node in model.graph.node:
        node.input[:] = [clip.input[0] if name == clip.output[0] else name for name in node.input]
    model.graph.node.remove(clip)


def bound(position: int, value: int) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        clip = last_clip(model)
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.uint8), "bound"))
        clip.input[position] = "bound"

    return edit


def other_scale_behind_the_clip(model: onnx.ModelProto) -> None:
    """Dequantize the clipped integers by a scale twice as large: they then reach 30."""
    clip = last_clip(model)
    reader = next(node for node in model.graph.node if clip.output[0] in node.input)
    scale = next(t for t in model.graph.initializer if t.name == reader.input[1])
    larger = copy.deepcopy(numpy_helper.to_array(scale)) * np.float32(2)
    model.graph.initializer.append(numpy_helper.from_array(larger, "larger"))
    reader.input[1] = "larger"


def sealed(low: Low, folder: Path, name: str, edit: Callable[[onnx.ModelProto], None]) -> Path:
    edited_onnx(low.bundle, folder, name, edit)
    return folder


@pytest.mark.parametrize("name", [WIRE_ONNX, FLOAT_ONNX])
@pytest.mark.parametrize("edit", [without_clip, bound(2, 16), bound(2, 255)])
def test_an_onnx_file_that_may_leave_the_range_is_refused(
    made: dict[int, Low], tmp_path: Path, name: str, edit: Callable[[onnx.ModelProto], None]
) -> None:
    with pytest.raises(errors.ArtifactMismatchError, match="does not clip what it sends to the 4"):
        load_bundle(sealed(made[4], tmp_path / "b", name, edit))


def test_another_scale_behind_the_clip_is_refused(made: dict[int, Low], tmp_path: Path) -> None:
    folder = sealed(made[4], tmp_path / "b", WIRE_ONNX, other_scale_behind_the_clip)
    with pytest.raises(errors.ArtifactMismatchError, match="does not clip"):
        load_bundle(folder)


def test_a_tighter_clip_is_another_valid_file(made: dict[int, Low], tmp_path: Path) -> None:
    """The positive control of the two tests above: the edit alone is not what is refused."""
    load_bundle(sealed(made[4], tmp_path / "b", WIRE_ONNX, bound(2, 14)))


def test_sent_values_out_of_range_stop_check_bench_and_features(
    made: dict[int, Low], tmp_path: Path
) -> None:
    low = made[4]
    wild = edited_onnx(low.bundle, tmp_path / "b", WIRE_ONNX, _brighter)
    artifact = wild.artifact(WIRE_ONNX)
    images = low.splits.victim
    batch = preprocess(images.images, wild.manifest.preprocessing)
    loaded = runtime_for(artifact).load(wild, artifact)
    with pytest.raises(ArtifactError, match="over the 15 of its 4 bits"):
        boundary_features(loaded, artifact, wild.manifest.wire, batch)
    with pytest.raises(ArtifactError, match="over the 15 of its 4 bits"):
        check_bundle(wild, images)
    with pytest.raises(ArtifactError, match="over the 15 of its 4 bits"):
        wire_size(wild, images.images)


def _brighter(model: onnx.ModelProto) -> None:
    """Let the artifact send 16 and more."""
    bound(2, 255)(model)
    clip = last_clip(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array(16, np.uint8), "floor"))
    clip.input[1] = "floor"


def test_a_reference_of_more_bits_than_the_manifest_says_is_refused(
    made: dict[int, Low], tmp_path: Path
) -> None:
    """The Lite files and the graph have no static bound: the check has to find them out."""
    low = made[4]
    folder = tmp_path / "b"
    shutil.copytree(low.bundle.folder, folder)
    wire = msgspec.structs.replace(low.bundle.manifest.wire, bits=2)
    claims = resealed(low.bundle, folder, wire=wire)
    with pytest.raises(ArtifactError, match=f"values of {GRAPH} are not on the manifest's wire"):
        check_bundle(claims, low.splits.victim)


def test_at_1_bit_only_the_identical_share_tells_a_wrong_artifact(
    made: dict[int, Low], tmp_path: Path
) -> None:
    low = made[1]
    wrong = edited_onnx(low.bundle, tmp_path / "b", WIRE_ONNX, bound(1, 1))
    found = check_bundle(wrong, low.splits.victim)
    missed = {gate.name for gate in failed(found.gates) if gate.artifact == WIRE_ONNX}
    assert "onnx_share_identical" in missed
    assert "onnx_share_within_1_lsb" not in missed
