"""The added formats of edges that are trained, equalized, whole networks, or send few bits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from baseline.datasets import load_splits
from baseline.preprocessing import preprocess
from export.build import export_bundle
from export.bundle import Bundle, load_bundle
from records.parity import CheckRecord
from runtime_check.check import check_bundle
from runtime_check.gates import failed
from runtime_check.machine import needs_precise_mode
from runtime_check.packed_wire import pack, unpack
from runtime_check.runtime import runtime_for
from tests.runtime_check.tiny_bundle import SPLIT, tiny_recipe, with_varied_classes, write_images

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

    from baseline.images import ImageSet

#: Format of the recipe → artifact format, for the extras that are installed and what runs here.
ADDED = {
    **({} if needs_precise_mode() else {"ort": "ort"}),
    **({"pte": "executorch"} if find_spec("executorch") else {}),
    **({"tflite": "litert"} if find_spec("ai_edge_litert") else {}),
}
#: So few images and an untrained network: a larger rate would drive it into a corner.
QAT = {"qat": True, "qat_batch_size": 8, "qat_learning_rate": 1e-4}


def exported(
    folder: Path, model: nn.Module, images: npt.NDArray[np.uint8], split: str, settings: Any
) -> tuple[Bundle, ImageSet]:
    write_images(folder / "data.npz", model, images)
    recipe = tiny_recipe(folder / "data.npz")
    chosen = {"splits": [split], "formats": ["ptl", "onnx", *ADDED], **settings}
    export = msgspec.convert(msgspec.to_builtins(recipe.export) | chosen, type(recipe.export))
    recipe = msgspec.structs.replace(recipe, export=export)
    splits = load_splits(recipe.data)
    export_bundle(model, recipe, splits, split, folder / "bundle", checkpoint_sha256=64 * "0")
    return load_bundle(folder / "bundle"), splits.victim


def require_parity(record: CheckRecord) -> None:
    """Every INT8 file of an added format: ≤ 2 LSB on ≥ 99.9 % of the values, no gate missed."""
    assert {gate.name for gate in failed(record.gates)} <= {"accuracy_drop_points"}
    rows = [row for row in record.artifacts if row.artifact.endswith(tuple(ADDED)) and row.lsb]
    assert len(rows) == 2 * len(ADDED)
    for row in rows:
        assert row.lsb is not None
        assert sum(row.lsb.histogram[:3]) / row.lsb.values >= 0.999, row.artifact
        assert row.lsb.off_grid == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        QAT,
        {"equalization": True, "bn_reestimation": True, "bias_correction": True},
        {**QAT, "equalization": True, "weight_observer": "per-tensor", "boundary_bits": 4},
    ],
)
def test_a_trained_or_equalized_edge_keeps_its_parity(
    settings: dict[str, Any],
    tmp_path: Path,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> None:
    model = with_varied_classes(tiny_model, tiny_images)
    bundle, victims = exported(tmp_path, model, tiny_images, SPLIT, settings)
    record = check_bundle(bundle, victims)
    require_parity(record)
    assert record.operators == ()
    bits = bundle.manifest.wire.bits
    for kind, q in sent(bundle, victims).items():
        assert np.array_equal(unpack(pack(q, bits), bits, bundle.manifest.wire.shape), q), kind
        assert len(np.unique(q)) > (50 if bits == 8 else 2**bits // 2), kind


@pytest.mark.slow
def test_the_whole_network_keeps_its_parity_or_names_the_operator(
    tmp_path: Path, tiny_model: nn.Module, tiny_images: npt.NDArray[np.uint8]
) -> None:
    """The untrained network gives a step in its pool a weight of many steps in a logit."""
    bundle, victims = exported(tmp_path, tiny_model, tiny_images, "output", QAT)
    record = check_bundle(bundle, victims)
    missed = {gate.artifact for gate in failed(record.gates) if gate.name == "share_within_2_lsb"}
    runtimes = {bundle.artifact(name).format for name in missed}
    assert {one.runtime for one in record.operators} == runtimes
    for one in record.operators:
        assert one.max_lsb == 1
        assert one.differing / one.values < 0.01
    for row in record.artifacts:
        if row.runtime in {"executorch", "litert"} and row.lsb is not None:
            assert row.lsb.share_identical >= 0.95
            assert row.lsb.off_grid == 0
    assert len(np.unique(sent(bundle, victims)["onnx"])) > 16


@pytest.mark.slow
def test_one_bit_is_sent_by_every_added_format(
    tmp_path: Path, tiny_model: nn.Module, tiny_images: npt.NDArray[np.uint8]
) -> None:
    model = with_varied_classes(tiny_model, tiny_images)
    bundle, victims = exported(tmp_path, model, tiny_images, SPLIT, {"boundary_bits": 1})
    record = check_bundle(bundle, victims)
    require_parity(record)
    names = {(gate.artifact, gate.name) for gate in record.gates}
    for word in ADDED:
        assert (f"edge_int8_wire_{word}", "onnx_share_identical") in names
    for kind, q in sent(bundle, victims).items():
        packed = pack(q, 1)
        assert packed.shape == (len(q), bundle.manifest.wire.packed_bytes), kind
        assert np.array_equal(unpack(packed, 1, bundle.manifest.wire.shape), q), kind
        assert len(np.unique(q)) == 2, kind


def sent(bundle: Bundle, victims: ImageSet) -> dict[str, npt.NDArray[np.uint8]]:
    """Artifact format → what its wire artifact sends for twenty victims."""
    batch = preprocess(victims.images[:20], bundle.manifest.preprocessing)
    wires = [a for a in bundle.edges("int8") if a.boundary == "wire"]
    assert {a.format for a in wires} == {"onnx", "torchscript-lite", *ADDED.values()}
    return {a.format: runtime_for(a).load(bundle, a).run(batch) for a in wires}
