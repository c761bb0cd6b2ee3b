"""Trained, equalized and re-estimated edges reach every artifact as calibrated ones do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from baseline.datasets import load_splits
from export.build import export_bundle
from export.bundle import load_bundle
from runtime_check.check import check_bundle
from runtime_check.gates import failed
from tests.runtime_check.tiny_bundle import SPLIT, tiny_recipe, with_varied_classes, write_images

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn


@pytest.mark.parametrize(
    "settings",
    [
        {"qat": True, "qat_batch_size": 8, "qat_epochs": 2},
        {"equalization": True, "bn_reestimation": True, "bias_correction": True},
        {"qat": True, "qat_batch_size": 8, "equalization": True, "weight_observer": "per-tensor"},
        {"qat": True, "qat_batch_size": 8, "boundary_bits": 4},
    ],
)
def test_every_parity_gate_passes_and_the_manifest_says_what_was_done(
    settings: dict[str, Any],
    tmp_path: Path,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> None:
    model = with_varied_classes(tiny_model, tiny_images)
    write_images(tmp_path / "data.npz", model, tiny_images)
    recipe = tiny_recipe(tmp_path / "data.npz")
    export = msgspec.convert(msgspec.to_builtins(recipe.export) | settings, type(recipe.export))
    recipe = msgspec.structs.replace(recipe, export=export)
    splits = load_splits(recipe.data)
    folder = tmp_path / "bundle"
    export_bundle(model, recipe, splits, SPLIT, folder, checkpoint_sha256=64 * "0")
    bundle = load_bundle(folder)
    assert bundle.manifest.recipe.export == export
    assert bool(bundle.manifest.equalized) == export.equalization
    record = check_bundle(bundle, splits.victim)
    # Sixteen images teach an untrained network nothing; its artifacts must agree all the same.
    assert {gate.name for gate in failed(record.gates)} <= {"accuracy_drop_points"}
    rows = {row.artifact: row for row in record.artifacts}
    for name in ("edge_int8_lite", "edge_int8_wire_lite"):
        lsb = rows[name].lsb
        assert lsb is not None
        assert lsb.max_lsb == 0
