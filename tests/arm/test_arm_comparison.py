"""The bundle's best edge against ExecuTorch's own export, counted on the emulated CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from benchmarks.against_executorch import OwnProgram, verdict
from benchmarks.arm_comparison import calibration_images, compare, failures
from export.bundle import Bundle
from records.arm_comparison import ArmComparisonRecord
from runtime_check.targets.emulated import EmulatedTarget
from tests.arm.arm_targets import prepared
from tests.benchmarks.torchvision_bundle import Exported, torchvision_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("executorch", reason="the extra executorch is not installed")

pytestmark = [pytest.mark.arm, pytest.mark.slow]


@pytest.fixture(scope="module")
def target() -> Iterator[EmulatedTarget]:
    with EmulatedTarget("cortex-a76", prepared("cortex-a76")) as found:
        yield found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return torchvision_bundle(tmp_path_factory.mktemp("arm"), ("ptl", "onnx", "pte"))


@pytest.fixture(scope="module")
def record(target: EmulatedTarget, exported: Exported) -> ArmComparisonRecord:
    # Torch alone takes a minute to start under the counter.
    manifest = exported.bundle.manifest
    kept = tuple(a for a in manifest.artifacts if a.format != "torchscript-lite")
    bundle = Bundle(exported.bundle.folder, msgspec.structs.replace(manifest, artifacts=kept))
    images = calibration_images(manifest, exported.data)
    return compare(bundle, target, images, weights=exported.weights)


def test_our_program_is_not_above_executorch_s_own(record: ArmComparisonRecord) -> None:
    own = record.executorch
    assert own is not None
    assert (own.best, own.not_above, own.delegates) == ("edge_int8_pte", True, 1)
    assert {one.artifact for one in own.int8} == {"edge_int8_onnx", "edge_int8_pte"}
    # The same convolutions: what differs is outside of them.
    ours = next(one for one in own.int8 if one.artifact == own.best)
    assert own.counted.mean.dot == ours.mean.dot > 0
    assert own.ratio > 0.9
    assert not any("ExecuTorch" in what for what in failures(record))


def test_a_bundle_whose_only_edge_is_dearer_fails(
    record: ArmComparisonRecord, exported: Exported
) -> None:
    own = record.executorch
    assert own is not None
    program = OwnProgram(own.tool, exported.bundle.artifact("edge_int8_pte"), b"", own.delegates)
    onnx = [one for one in own.int8 if one.artifact == "edge_int8_onnx"]
    dearer = verdict(program, own.counted, onnx)
    assert not dearer.not_above
    found = failures(msgspec.structs.replace(record, executorch=dearer))
    assert "the best edge, edge_int8_onnx, is above ExecuTorch's own export" in found
