"""The bundle's best edge against ExecuTorch's own export, counted on the emulated CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from benchmarks.arm_comparison import calibration_images, compare, failures
from export.bundle import Bundle
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


def of_formats(exported: Exported, *formats: str) -> Bundle:
    manifest = exported.bundle.manifest
    kept = tuple(a for a in manifest.artifacts if a.role != "edge" or a.format in formats)
    return Bundle(exported.bundle.folder, msgspec.structs.replace(manifest, artifacts=kept))


def test_our_program_is_not_above_executorch_s_own(
    target: EmulatedTarget, exported: Exported
) -> None:
    bundle = of_formats(exported, "onnx", "executorch")
    images = calibration_images(bundle.manifest, exported.data)
    record = compare(bundle, target, images, weights=exported.weights)
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
    target: EmulatedTarget, exported: Exported
) -> None:
    bundle = of_formats(exported, "onnx")
    images = calibration_images(bundle.manifest, exported.data)
    record = compare(bundle, target, images, weights=exported.weights)
    assert record.executorch is not None
    assert not record.executorch.not_above
    assert not record.passed
    assert "above ExecuTorch's own export" in "; ".join(failures(record))
