"""``edgeveil attack``: record, pictures, exit codes, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from records import codec
from records.attack import AttackRecord
from records.codec import without_timings
from records.recipe import AttackRecipe
from tests.commands.exit_codes import exit_code_of
from tests.runtime_check.tiny_bundle import edited_onnx, resealed, tiny_bundle

if TYPE_CHECKING:
    from torch import nn

    from export.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    """Return a bundle whose sealed attack is short enough for a test."""
    made, _ = tiny_bundle(tmp_path_factory.mktemp("attack_command"), tiny_model, tiny_images)
    short = AttackRecipe(max_epochs=1, batch_size=16, bootstrap_resamples=100, ceiling_db=5.0)
    return with_attack(made, short)


def with_attack(bundle: Bundle, recipe: AttackRecipe) -> Bundle:
    whole = msgspec.structs.replace(bundle.manifest.recipe, attack=recipe)
    return resealed(bundle, bundle.folder, recipe=whole)


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return exit_code_of(monkeypatch, "attack", "--threads", "1", *arguments)


def test_it_writes_record_and_pictures_beside_the_bundle(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, bundle.folder) == 0
    shown = capsys.readouterr().out
    folder = bundle.folder.parent / "attack"
    record = codec.read(folder / "attack.json", AttackRecord)
    assert record.pre_registered
    assert shown.startswith(record.verdict)
    assert "NOT pre-registered" not in shown
    for picture in record.pictures:
        assert (folder / picture.file).read_bytes().startswith(b"\x89PNG")
    assert (bundle.folder.parent / "cache").is_dir()

    assert exit_code(monkeypatch, bundle.folder) == 1
    assert "--force" in capsys.readouterr().err
    assert exit_code(monkeypatch, bundle.folder, "--force", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert without_timings(printed) == without_timings(record)


def test_other_seeds_or_images_are_not_pre_registered(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bundle.folder.parent / "cache"
    others = (("--seeds", "1"), ("--controls", "none"), ("--victims", "20"))
    for number, option in enumerate(others):
        out = tmp_path / str(number)
        given = (bundle.folder, "--out", out, "--cache", cache)
        assert exit_code(monkeypatch, *given, *option) == 0
        record = codec.read(out / "attack.json", AttackRecord)
        assert not record.pre_registered
        assert record.margin_db == bundle.manifest.recipe.attack.margin_db
    assert record.data.victim.count == 20


def test_the_attackers_are_chosen_on_the_command_line(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = (
        *("--levels", "A0,A1,A3", "--query-budgets", "8,12,5000", "--controls", "none"),
        *("--artifacts", "edge_int8_wire_lite"),
    )
    out, cache = tmp_path / "out", bundle.folder.parent / "cache"
    exit_code(monkeypatch, bundle.folder, "--out", out, "--cache", cache, *given)
    record = codec.read(out / "attack.json", AttackRecord)
    assert record.recipe.levels == ("A0", "A1", "A3")
    assert record.recipe.query_budgets == (8, 12, 5000)
    assert record.controls.logits == {}
    assert record.controls.bits16 is None
    ran = [(r.level, r.queries) for r in record.artifacts[0].levels]
    assert ran == [("A0", None), ("A1", None), ("A3", 8), ("A3", 12)]
    assert [verdict.artifact for verdict in record.verdicts] == ["edge_int8_wire_lite"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "A3 without 5,000 pairs" in shown


def test_an_artifact_that_is_not_there_is_named(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("--out", tmp_path / "out", "--artifacts", "edge_int4_lite")
    assert exit_code(monkeypatch, bundle.folder, *given) == 1
    assert "edge_int4_lite" in capsys.readouterr().err


def test_bad_options_exit_1(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for option in (
        ("--seeds", "x"),
        ("--seeds", "-1"),
        ("--data", "nothing:x"),
        ("--levels", "A0,A9"),
        ("--levels", "A0,A2"),
        ("--query-budgets", "100,10"),
        ("--white-box-images", "0"),
        ("--ood-source", "nowhere"),
        ("--controls", "luck"),
    ):
        assert exit_code(monkeypatch, bundle.folder, "--out", tmp_path / "out", *option) == 1
        assert option[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_word_that_there_is_not_is_answered_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, word, said in (
        ("--levels", "A0,A9", "A9: levels are A0, A1, A2, A3, A4"),
        ("--capacities", "small,huge", "huge: capacities are small, medium, large"),
        ("--controls", "luck", "luck: controls are logits, bits16, none"),
    ):
        assert exit_code(monkeypatch, "bundle", option, word) == 1
        shown = " ".join(capsys.readouterr().err.split())
        assert f"Invalid value for '{option}': {said}" in shown


def test_a_failed_control_exits_2_and_keeps_the_evidence(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sealed = bundle.manifest.recipe.attack
    with_attack(bundle, msgspec.structs.replace(sealed, ceiling_db=99.99))
    out, cache = tmp_path / "out", bundle.folder.parent / "cache"
    try:
        code = exit_code(monkeypatch, bundle.folder, "--out", out, "--cache", cache)
    finally:
        with_attack(bundle, sealed)
    assert code == 2
    captured = capsys.readouterr()
    assert "no verdict: ceiling" in captured.err
    assert captured.out.startswith("INCONCLUSIVE")
    assert not codec.read(out / "attack.json", AttackRecord).passed


def test_drift_of_one_artifact_voids_only_its_verdict(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "edge_int8_onnx"

    def without_its_largest_weights(model: onnx.ModelProto) -> None:
        largest = max(model.graph.initializer, key=lambda tensor: math.prod(tensor.dims))
        values = numpy_helper.to_array(largest)
        largest.CopyFrom(numpy_helper.from_array(np.ones_like(values), largest.name))

    bad = edited_onnx(bundle, tmp_path / "bad", name, without_its_largest_weights)
    given = (bad.folder, "--out", tmp_path / "out", "--levels", "A0,A1", "--controls", "none")
    assert exit_code(monkeypatch, *given) == 2
    assert f"no verdict on {name}: export_drift_A" in capsys.readouterr().err
    verdicts = codec.read(tmp_path / "out" / "attack.json", AttackRecord).verdicts
    voided = {one.artifact for one in verdicts if one.reason.startswith("no verdict")}
    assert voided == {name} < {one.artifact for one in verdicts}
