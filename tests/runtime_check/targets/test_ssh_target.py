"""A device behind a real OpenSSH server as the target of a whole check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from records.errors import ArtifactError, UnsupportedHereError
from runtime_check.check import check_bundle
from runtime_check.gates import failed
from runtime_check.machine import needs_precise_mode
from runtime_check.ort import ort_mode
from runtime_check.targets.open_target import default_limit, opened
from tests.loopback_ssh import Device, loopback
from tests.runtime_check.tiny_bundle import tiny_bundle, with_varied_classes

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with loopback(tmp_path / "device") as found:
        yield found


def test_a_check_on_a_device(
    device: Device, tmp_path: Path, tiny_model: nn.Module, tiny_images: npt.NDArray[np.uint8]
) -> None:
    model = with_varied_classes(tiny_model, tiny_images)
    bundle, splits = tiny_bundle(tmp_path / "tiny", model, tiny_images)
    python = device.torch_free_python()
    with opened(device.url, ssh_config=device.config, python=python) as target:
        assert target is not None
        assert default_limit(target) is None
        record = check_bundle(bundle, splits.victim.take(np.arange(50)), target=target)
        with pytest.raises(UnsupportedHereError), target.counting("onnx"):
            pass
        mobile = msgspec.structs.replace(bundle.artifact("edge_int8_onnx"), format="ort")
        assert (target.missing(mobile) is None) is not needs_precise_mode()
    assert failed(record.gates) == ()
    assert record.target is not None
    assert (record.target.kind, record.target.name) == ("device", device.url)
    assert record.target.versions["numpy"] == np.__version__
    # The device is this machine, so every output is the host's, and so is the mode.
    assert {row.mode for row in record.host} >= {ort_mode().mode, "optimizations-off"}
    same = [row for row in record.host if row.mode == row.host_mode]
    assert same
    assert all(row.from_host.max_lsb == 0 for row in same)
    assert {one.artifact for one in record.skipped} == {
        edge.name for edge in bundle.edges() if edge.format == "torchscript-lite"
    }
    assert "torch is not on pi" in record.skipped[0].reason
    assert device.left() == []


def test_a_device_without_the_packages_is_unsupported(device: Device) -> None:
    bare = device.program("bare-python", 'exec /usr/bin/env python3 -I -S "$@"')
    with (
        pytest.raises((UnsupportedHereError, ArtifactError), match="numpy"),
        opened(device.url, ssh_config=device.config, python=str(bare)),
    ):
        pass
