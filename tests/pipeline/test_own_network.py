"""A network that is not torchvision's, from its factory to the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from attack.evaluate import attack_bundle
from baseline.datasets import ImageSplits, load_splits
from baseline.model import build_model
from export.build import export_bundle
from export.bundle import Bundle, load_bundle
from records.errors import OverwriteError, SplitError
from records.hashing import sha256_file
from records.recipe import (
    AttackRecipe,
    DataRecipe,
    ExportRecipe,
    ModelRecipe,
    Recipe,
)
from runtime_check.check import check_bundle

SPLIT = "block3"


@dataclass(frozen=True)
class Own:
    recipe: Recipe
    splits: ImageSplits
    checkpoint: Path
    bundle: Bundle


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, tiny_model: torch.nn.Module) -> Own:
    folder = tmp_path_factory.mktemp("own")
    checkpoint = folder / "own.safetensors"
    save_file({k: v.contiguous() for k, v in tiny_model.state_dict().items()}, checkpoint)
    recipe = Recipe(
        data=DataRecipe(train=64, calibration=128, attacker=512, victims=128),
        model=ModelRecipe(name="tests.tiny_network:build", weights=str(checkpoint)),
        export=ExportRecipe(splits=(SPLIT,)),
        attack=AttackRecipe(max_epochs=2, patience=1, ceiling_db=20.0),
    )
    splits = load_splits(recipe.data)
    model = build_model(recipe.model, len(splits.classes))
    export_bundle(
        model,
        recipe,
        splits,
        SPLIT,
        folder / "bundle",
        checkpoint_sha256=sha256_file(checkpoint),
    )
    return Own(recipe, splits, checkpoint, load_bundle(folder / "bundle"))


def test_every_artifact_is_there_and_the_qparams_are_fx_s(own: Own) -> None:
    manifest = own.bundle.manifest
    assert manifest.split == SPLIT
    assert manifest.boundary.shape == (16, 8, 8)
    assert len(manifest.artifacts) == 9
    assert manifest.float_nodes == ()
    boundary = {(q.scale, q.zero_point) for q in manifest.qparams}
    assert (manifest.wire.scale, manifest.wire.zero_point) in boundary


def test_it_is_checked_in_every_runtime(own: Own) -> None:
    record = check_bundle(own.bundle, own.splits.victim)
    assert [g for g in record.gates if not g.passed and g.name == "lite_max_lsb"] == []
    lite = [a for a in record.artifacts if a.runtime == "lite" and a.lsb is not None]
    assert len(lite) == 2
    assert all(a.lsb is not None and a.lsb.share_identical == 1.0 for a in lite)
    assert all(f.convolutions == f.fused > 0 for f in record.fusion)
    assert all(w.differing == 0 for w in record.wire_equality)


def test_it_is_attacked_in_every_runtime(own: Own, tmp_path: Path) -> None:
    record = attack_bundle(own.bundle, own.splits, own.recipe.attack, tmp_path / "cache", tmp_path)
    attacked = {a.name for a in record.artifacts if a.precision == "int8"}
    assert attacked >= {a.name for a in own.bundle.edges("int8")}
    assert all(level.result.leak_db > 0 for a in record.artifacts for level in a.levels)


def test_the_same_inputs_give_the_same_bundle(own: Own, tmp_path: Path) -> None:
    again = export_bundle(
        build_model(own.recipe.model, len(own.splits.classes)),
        own.recipe,
        own.splits,
        SPLIT,
        tmp_path / "bundle",
        checkpoint_sha256=sha256_file(own.checkpoint),
    )
    assert again == own.bundle.manifest


def test_an_existing_bundle_is_not_overwritten(own: Own) -> None:
    with pytest.raises(OverwriteError):
        export_bundle(
            build_model(own.recipe.model, len(own.splits.classes)),
            own.recipe,
            own.splits,
            SPLIT,
            own.bundle.folder,
            checkpoint_sha256=sha256_file(own.checkpoint),
        )
    assert load_bundle(own.bundle.folder).manifest == own.bundle.manifest


def test_a_cut_that_a_skip_connection_jumps_over_is_refused(own: Own, tmp_path: Path) -> None:
    model = build_model(own.recipe.model, len(own.splits.classes))
    recipe = msgspec.structs.replace(own.recipe, export=ExportRecipe(splits=("block3.depthwise",)))
    with pytest.raises(SplitError) as caught:
        export_bundle(
            model,
            recipe,
            own.splits,
            "block3.depthwise",
            tmp_path / "bundle",
            checkpoint_sha256="0" * 64,
        )
    # Both tensors by name: the cut itself, and the block's input that the add needs.
    assert "block3.depthwise" in str(caught.value)
    assert "block2" in str(caught.value)
    assert not (tmp_path / "bundle").exists()
