"""A whole attack on the tiny network: controls, planted defence and copy, resume, drift."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from attack import campaign, evaluate
from attack.cache import TensorCache
from attack.campaign import BASELINE
from attack.controls import numpy_floor_db, scale_of
from attack.evaluate import attack_bundle
from attack.features import EAGER, Target, float_table, target_of
from attack.metrics import as_unit_images
from baseline.datasets import ImageSplits
from baseline.images import ImageSet
from baseline.preprocessing import preprocess
from export.bundle import Bundle
from records import codec
from records.attack import AttackRecord, failed_gates
from records.codec import without_timings
from records.errors import DataError, UnsupportedHereError
from records.hashing import sha256_file
from records.recipe import AttackRecipe
from runtime_check import availability
from runtime_check.runtime import boundary_features, runtime_for
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from torch import nn

RECIPE = AttackRecipe(max_epochs=2, batch_size=32, bootstrap_resamples=200, controls=())
WHOLE = msgspec.structs.replace(
    RECIPE,
    levels=("A0", "A1", "A2", "A3", "A4"),
    controls=("logits", "bits16"),
    query_budgets=(16, 40, 100_000),
    white_box_images=12,
    white_box_iterations=25,
    capacities=("small",),
)


@dataclass(frozen=True)
class Attacked:
    bundle: Bundle
    splits: ImageSplits
    folder: Path
    record: AttackRecord


@pytest.fixture(scope="module")
def attacked(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Attacked:
    folder = tmp_path_factory.mktemp("attack")
    bundle, splits = tiny_bundle(folder, tiny_model, tiny_images)
    # The tiny bundle has 16 attacker images, too few to learn from: its train images join them.
    images = ImageSet(
        np.concatenate([splits.attacker.images, splits.victim.images[60:]]),
        np.concatenate([splits.attacker.labels, splits.victim.labels[60:]]),
    )
    splits = dataclasses.replace(splits, attacker=images, victim=splits.victim.take(np.arange(60)))
    record = attack_bundle(bundle, splits, RECIPE, folder / "cache", folder / "pictures", threads=1)
    return Attacked(bundle, splits, folder, record)


def test_every_int8_artifact_is_attacked_from_its_own_outputs(attacked: Attacked) -> None:
    record = attacked.record
    int8 = {a.name for a in attacked.bundle.edges("int8")}
    assert [a.name for a in record.artifacts[:2]] == [BASELINE, EAGER]
    assert {a.name for a in record.artifacts[2:]} == int8
    assert {v.artifact for v in record.verdicts} == int8
    by_name = {a.name: a for a in record.artifacts}
    assert by_name["edge_int8_lite"].same_outputs_as == EAGER
    assert by_name["edge_int8_wire_lite"].same_outputs_as == EAGER
    assert {a.runtime for a in record.artifacts} == {"ort", "eager", "lite"}
    for artifact in record.artifacts:
        assert [r.level for r in artifact.levels] == ["A0", "A1"]
        assert len(artifact.per_image_db) == 60
        best = max(r.result.recon_psnr_db.mean for r in artifact.levels)
        assert artifact.max_recon_psnr_db == pytest.approx(best)
        assert artifact.worst[0].recon_psnr_db == max(w.recon_psnr_db for w in artifact.worst)
        starts = [c.start for c in artifact.levels[1].candidates]
        assert starts == ["unchanged", "constant", "closed-form", "scratch", "fine-tuned"]
        chosen = artifact.levels[1].candidates[artifact.levels[1].chosen]
        losses = [c.best_val_loss for c in artifact.levels[1].candidates]
        assert chosen.best_val_loss == min(losses)


def test_the_controls_pass_and_int8_alone_is_denied(attacked: Attacked) -> None:
    record = attacked.record
    assert failed_gates(record) == ()
    assert record.passed
    assert record.verdict == "DENIED"
    assert record.note is None
    assert not record.pre_registered
    assert record.controls.ceiling.recon_psnr_db.mean > 40
    assert codec.decode(codec.encode(record), AttackRecord, "a record") == record


def test_every_level_and_control_stands_in_one_record(attacked: Attacked) -> None:
    record = again(attacked, attacked.folder / "cache", WHOLE)
    assert record.data.left_out_budgets == (100_000,)
    assert record.data.ood_source == "photos"
    assert record.data.ood is not None
    assert record.data.ood.count == len(attacked.splits.attacker)
    assert record.data.ood.sha256 != record.data.attacker.sha256
    for artifact in record.artifacts:
        ran = [(r.level, r.queries, r.victims) for r in artifact.levels]
        assert ran == [
            ("A0", None, 60),
            ("A1", None, 60),
            ("A2", None, 12),
            ("A3", 16, 60),
            ("A3", 40, 60),
            ("A4", None, 60),
        ]
        a1, a2 = artifact.levels[1].result, artifact.levels[2]
        if artifact.strongest == "A2":
            assert len(artifact.per_image_db) == 12
            # Over all victims: A1's mean and the gain on the same twelve.
            assert artifact.max_recon_psnr_db > a1.recon_psnr_db.mean
        assert {c.start for c in a2.candidates} == {"unchanged", "a1-output", "mean-image"}
        assert all(r.recovery.gallery == 60 for r in artifact.levels)
        assert a2.recovery.probes == 12
        # Images of another kind teach less than the victims' own.
        foreign = artifact.levels[5].result.recon_psnr_db.mean
        assert foreign < a1.recon_psnr_db.mean
    assert set(record.controls.logits) == {BASELINE, EAGER}
    floor = record.controls.floor.recon_psnr_db.mean
    boundary = record.artifacts[0].levels[1].result.recon_psnr_db.mean
    logits = record.controls.logits[BASELINE].recon_psnr_db.mean
    assert floor - 0.5 < logits < boundary
    assert record.controls.bits16 is not None
    names = {gate.name for gate in record.controls.gates}
    assert names >= {
        "a2_not_weaker_than_a1",
        "more_queries_not_weaker",
        "boundary_leaks_no_less_than_logits",
        "bits16_as_fp32",
    }
    measured = {g.name: g.measured for g in record.controls.gates if g.artifact == BASELINE}
    assert measured["bits16_as_fp32"] < 0.1
    assert codec.decode(codec.encode(record), AttackRecord, "a record") == record


def test_other_images_of_the_victims_own_source_are_refused_before_any_work(
    attacked: Attacked, tmp_path: Path
) -> None:
    own = attacked.splits.record.source
    recipe = msgspec.structs.replace(WHOLE, ood_source=own)
    with pytest.raises(DataError, match="A4 needs images of another source"):
        again(attacked, tmp_path / "untouched", recipe)
    assert not (tmp_path / "untouched").exists()


def test_the_floor_is_that_of_plain_numpy(attacked: Attacked) -> None:
    attacker, victim = attacked.splits.attacker, attacked.splits.victim
    mean = (attacker.images.astype(np.float64) / 255).mean(0)
    mse = ((victim.images / 255 - mean) ** 2).mean((1, 2, 3))
    expected = float((-10 * np.log10(mse)).mean())
    assert attacked.record.controls.floor.recon_psnr_db.mean == pytest.approx(expected, abs=1e-5)
    assert numpy_floor_db(attacker.images, victim.images) == pytest.approx(expected, abs=1e-9)
    pooled = -10 * np.log10(mse.mean())
    assert attacked.record.controls.floor.recon_psnr_pooled_db == pytest.approx(pooled, abs=1e-5)
    scale = scale_of(attacker, victim, as_unit_images(victim.images))
    own = victim.images / 255 - (victim.images / 255).mean((1, 2), keepdims=True)
    colour = float((-10 * np.log10((own**2).mean((1, 2, 3)))).mean())
    assert scale.mean_colour.psnr.mean() == pytest.approx(colour, abs=1e-5)


def test_a_wrong_scaling_fails_the_floor_gate(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return as_unit_images(images) * np.float32(0.5)

    monkeypatch.setattr(evaluate, "as_unit_images", halved)
    record = again(attacked, attacked.folder / "cache")
    assert "floor" in {gate.name for gate in failed_gates(record)}
    assert not record.passed
    assert record.verdict == "INCONCLUSIVE"


def test_a_ceiling_that_is_not_reached_voids_every_verdict(attacked: Attacked) -> None:
    recipe = msgspec.structs.replace(RECIPE, ceiling_db=99.9)
    record = again(attacked, attacked.folder / "cache", recipe)
    assert [gate.name for gate in failed_gates(record)] == ["ceiling"]
    assert not record.passed
    assert {v.verdict for v in record.verdicts} == {"INCONCLUSIVE"}
    assert record.verdict == "INCONCLUSIVE"


def test_pictures_stand_beside_the_record(attacked: Attacked) -> None:
    for picture in attacked.record.pictures:
        path = attacked.folder / "pictures" / picture.file
        assert sha256_file(path) == picture.sha256
        assert len(picture.victims) == 8
    worst = attacked.record.pictures[1].victims
    shown = {a.name: a for a in attacked.record.artifacts}
    assert any(tuple(w.victim for w in a.worst[:8]) == worst for a in shown.values())


def test_features_are_what_the_runtime_sends(attacked: Attacked, tmp_path: Path) -> None:
    bundle, splits = attacked.bundle, attacked.splits
    batch = preprocess(splits.victim.images, bundle.manifest.preprocessing)
    for artifact in (bundle.artifact(BASELINE), *bundle.edges("int8")):
        loaded = runtime_for(artifact).load(bundle, artifact)
        sent = boundary_features(loaded, artifact, bundle.manifest.wire, batch)
        for _ in ("computed", "from the cache"):
            cache = TensorCache(tmp_path)
            target = target_of(bundle, artifact, splits.attacker, splits.victim, cache)
            assert np.array_equal(target.victim.real(slice(None)).numpy(), sent)
            # A quarter of the bytes: everything INT8 is kept as the uint8 that is sent.
            assert target.victim.values.dtype == (
                np.float32 if artifact.name == BASELINE else np.uint8
            )


def test_a_damaged_or_lost_cache_gives_the_same_record(attacked: Attacked, tmp_path: Path) -> None:
    fresh = again(attacked, tmp_path)
    assert without_timings(fresh) == without_timings(attacked.record)
    entries = sorted((attacked.folder / "cache").rglob("*.safetensors"))
    for number, path in enumerate(entries):
        if number % 3 == 0:
            path.unlink()
        elif number % 3 == 1:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    record = again(attacked, attacked.folder / "cache")
    assert without_timings(record) == without_timings(attacked.record)


def test_a_planted_defence_holds_and_a_planted_copy_is_denied(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    fp32: list[Target] = []

    def planted(*arguments: Any, **options: Any) -> Target:
        target = target_of(*arguments, **options)
        if target.name == BASELINE:
            fp32.append(target)
            return target
        if "onnx" in target.name:
            return dataclasses.replace(target, attacker=fp32[0].attacker, victim=fp32[0].victim)
        tables = [
            float_table(rng.standard_normal(t.values.shape).astype(np.float32))
            for t in (target.attacker, target.victim)
        ]
        return dataclasses.replace(target, attacker=tables[0], victim=tables[1])

    monkeypatch.setattr(campaign, "target_of", planted)
    # Half the artifacts are planted one way, half the other: drift is what this must show.
    record = again(
        attacked,
        attacked.folder / "cache",
        msgspec.structs.replace(RECIPE, drift_tolerance_db=1000.0),
    )
    verdicts = {v.artifact: v for v in record.verdicts}
    assert verdicts["edge_int8_lite"].verdict == "HOLDS"
    assert verdicts["edge_int8_wire_lite"].verdict == "HOLDS"
    assert verdicts["edge_int8_onnx"].verdict == "DENIED"
    assert verdicts["edge_int8_onnx"].advantage_db == pytest.approx(0, abs=1e-9)
    assert record.verdict == "DENIED"
    drifted = again(attacked, attacked.folder / "cache")
    assert {gate.artifact for gate in failed_gates(drifted)} == {
        "edge_int8_onnx",
        "edge_int8_wire_onnx",
    }
    assert {v.verdict for v in drifted.verdicts if "onnx" in v.artifact} == {"INCONCLUSIVE"}
    assert not drifted.passed


def test_an_fp32_edge_that_leaks_nothing_is_noted(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(*arguments: Any, **options: Any) -> Target:
        target = target_of(*arguments, **options)
        rng = np.random.default_rng(1)
        tables = [
            float_table(rng.standard_normal(t.values.shape).astype(np.float32))
            for t in (target.attacker, target.victim)
        ]
        return dataclasses.replace(target, attacker=tables[0], victim=tables[1])

    monkeypatch.setattr(campaign, "target_of", noisy)
    record = again(attacked, attacked.folder / "cache")
    assert record.note is not None
    assert "nothing here" in record.note
    assert record.verdict == "DENIED"


def test_two_seeds_and_a_single_level(attacked: Attacked) -> None:
    recipe = msgspec.structs.replace(RECIPE, seeds=(0, 1), levels=("A0",))
    record = again(attacked, attacked.folder / "cache", recipe)
    for artifact in record.artifacts:
        assert [(r.level, r.seed) for r in artifact.levels] == [("A0", 0), ("A0", 1)]
        means = [r.result.recon_psnr_db.mean for r in artifact.levels]
        assert artifact.max_recon_psnr_db == pytest.approx(np.mean(means))


def test_too_few_images_and_another_size_are_refused(attacked: Attacked, tmp_path: Path) -> None:
    one = dataclasses.replace(attacked.splits, attacker=attacked.splits.attacker.take(np.arange(1)))
    with pytest.raises(DataError, match="at least 2"):
        attack_bundle(attacked.bundle, one, RECIPE, tmp_path, None)
    small = ImageSet(attacked.splits.victim.images[:, :16, :16], attacked.splits.victim.labels)
    with pytest.raises(DataError, match="32 px"):
        attack_bundle(
            attacked.bundle,
            dataclasses.replace(attacked.splits, victim=small),
            RECIPE,
            tmp_path,
            None,
        )


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        availability, "find_spec", lambda name: None if name == "torch" else object()
    )


def test_an_artifact_whose_runtime_is_missing_is_skipped_with_the_reason(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torch(monkeypatch)
    record = again(attacked, attacked.folder / "cache")
    assert [skip.artifact for skip in record.skipped] == ["edge_int8_lite", "edge_int8_wire_lite"]
    assert all("pip install '.[export]'" in skip.reason for skip in record.skipped)
    left = {"edge_int8_onnx", "edge_int8_wire_onnx"}
    assert {verdict.artifact for verdict in record.verdicts} == left
    assert {artifact.name for artifact in record.artifacts} == {BASELINE, EAGER} | left
    assert record.passed
    assert attacked.record.skipped == ()


@pytest.mark.parametrize("names", [("edge_int8_lite",), ("edge_int8_lite", "edge_int8_onnx")])
def test_an_artifact_asked_for_by_name_exits_3_without_its_runtime(
    attacked: Attacked, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_torch(monkeypatch)
    recipe = msgspec.structs.replace(RECIPE, artifacts=names)
    with pytest.raises(UnsupportedHereError, match=r"edge_int8_lite: torch is not") as raised:
        again(attacked, attacked.folder / "cache", recipe)
    assert raised.value.exit_code == 3


def again(attacked: Attacked, cache: Path, recipe: AttackRecipe = RECIPE) -> AttackRecord:
    pictures = cache / "pictures-again"
    for old in pictures.glob("*.png"):
        old.unlink()
    return attack_bundle(attacked.bundle, attacked.splits, recipe, cache, pictures, threads=1)
