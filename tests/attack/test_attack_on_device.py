"""The attack on outputs that come from a device behind a real OpenSSH server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy.typing as npt

from attack.evaluate import attack_bundle
from runtime_check.targets.open_target import opened
from tests.loopback_ssh import loopback
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def test_the_decoder_is_fed_the_devices_outputs(
    tmp_path: Path, tiny_model: nn.Module, tiny_images: npt.NDArray[np.uint8]
) -> None:
    bundle, splits = tiny_bundle(tmp_path / "tiny", tiny_model, tiny_images)
    recipe = msgspec.structs.replace(
        bundle.manifest.recipe.attack, levels=("A0", "A1"), max_epochs=1, controls=()
    )
    with (
        loopback(tmp_path / "device") as device,
        opened(device.url, ssh_config=device.config, python=device.torch_free_python()) as target,
    ):
        assert target is not None
        record = attack_bundle(bundle, splits, recipe, tmp_path / "cache", None, target=target)
        assert device.left() == []
    assert record.target is not None
    assert (record.target.kind, record.target.name) == ("device", "ssh://pi")
    drift = [gate for gate in record.drift if gate.name.startswith("export_drift_A")]
    assert {gate.artifact for gate in drift} == {"edge_int8_onnx", "edge_int8_wire_onnx"}
    assert all(gate.passed for gate in drift)
