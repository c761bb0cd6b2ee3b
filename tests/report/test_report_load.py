from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from records import codec
from records.errors import InputError, RecordError
from report.load import load_run, record_files
from tests.report.sample_run import Sample, png, write_sample_run
from tests.report.test_device_section import SPLIT, device_record, write_device
from tests.report.test_target_section import write_targets

T = TypeVar("T")

RECORDS = (
    "train/training.json",
    "features.3/bundle/manifest.json",
    "features.3/check.json",
    "features.3/bench.json",
    "features.3/attack/attack.json",
)


def test_splits_come_in_the_recipes_order(tmp_path: Path) -> None:
    write_sample_run(tmp_path, Sample(splits=("features.9", "avgpool", "features.3")))
    names = [s.split for s in load_run(tmp_path).splits]
    assert names == ["features.9", "avgpool", "features.3"]


def test_folders_without_records_are_no_splits(tmp_path: Path) -> None:
    write_sample_run(tmp_path)
    (tmp_path / "cache" / "features").mkdir(parents=True)
    (tmp_path / "report").mkdir()
    assert [s.split for s in load_run(tmp_path).splits] == ["features.3"]


@pytest.mark.parametrize("name", RECORDS)
def test_a_missing_record_is_no_error(tmp_path: Path, name: str) -> None:
    write_sample_run(tmp_path)
    (tmp_path / name).unlink()
    load_run(tmp_path)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("damage", ["truncate", "unknown key", "not JSON", "wrong type"])
def test_a_malformed_record_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    path = write_sample_run(tmp_path) / name
    record = json.loads(path.read_text())
    damaged = {
        "truncate": path.read_text()[:-20],
        "unknown key": json.dumps(record | {"surprise": 1}),
        "not JSON": "<html>",
        "wrong type": json.dumps(record | {"schema": 7}),
    }
    path.write_text(damaged[damage])
    with pytest.raises(RecordError, match=path.name):
        load_run(tmp_path)


def test_the_files_of_a_run_are_those_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_targets(tmp_path / "run")
    write_device(folder / SPLIT / "pi", device_record())
    write_device(folder / "phone", device_record())
    opened: set[Path] = set()

    def noted(path: Path, kind: type[T]) -> T:
        opened.add(path)
        return codec.read(path, kind)

    for reader in ("load", "load_devices"):
        monkeypatch.setattr(f"report.{reader}.codec", SimpleNamespace(read=noted))
    load_run(folder)
    assert set(record_files(folder)) == opened
    assert len(opened) == 5 + 3 + 2 * 3


def test_records_of_two_bundles_are_not_mixed(tmp_path: Path) -> None:
    path = write_sample_run(tmp_path) / "features.3" / "check.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"bundle_id": "0" * 64}))
    with pytest.raises(RecordError, match="different bundles"):
        load_run(tmp_path)


def test_a_picture_that_is_not_the_attacks_is_refused(tmp_path: Path) -> None:
    write_sample_run(tmp_path)
    (tmp_path / "features.3" / "attack" / "study.png").write_bytes(png(99))
    with pytest.raises(RecordError, match=r"study\.png is not the picture"):
        load_run(tmp_path)


def test_a_picture_that_is_gone_is_not_an_error(tmp_path: Path) -> None:
    write_sample_run(tmp_path)
    (tmp_path / "features.3" / "attack" / "study.png").unlink()
    (records,) = load_run(tmp_path).splits
    assert [p.png is None for p in records.pictures] == [True, False]


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "a/b.png", ".png", "x.svg"])
def test_a_picture_outside_the_attacks_folder_is_never_read(tmp_path: Path, name: str) -> None:
    path = write_sample_run(tmp_path) / "features.3" / "attack" / "attack.json"
    record = json.loads(path.read_text())
    record["pictures"][0]["file"] = name
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="no plain PNG name"):
        load_run(tmp_path)


def test_no_records_at_all_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record"):
        load_run(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_run(tmp_path / "nowhere")
