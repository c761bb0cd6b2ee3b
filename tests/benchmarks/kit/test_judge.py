"""What a device sends is refused when it is malformed, foreign, or contradicts itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy.typing as npt
import pytest

from benchmarks.device.contents import read_contents
from benchmarks.device.latency import bench
from benchmarks.device.parity import check
from benchmarks.device.program import device_facts
from benchmarks.kit.build import BuiltKit, contents_sha256
from benchmarks.kit.judge_bench import device_bench
from benchmarks.kit.judge_check import device_check
from export.bundle import Bundle
from records import codec
from records.device import KitBench, KitCheck
from records.errors import RecordError
from records.progress import silent
from tests.benchmarks.kit.kits import QUICK, quick_kit
from tests.benchmarks.kit.test_build import unpacked
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Made = tuple[Bundle, BuiltKit, dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Made:
    folder = tmp_path_factory.mktemp("judge")
    bundle, splits = tiny_bundle(folder, tiny_model, tiny_images)
    kit = quick_kit(bundle, splits, folder / "kit.tar.gz")
    contents = read_contents(unpacked(folder / "kit.tar.gz", folder / "unpacked"))
    facts = device_facts() | {"kit": contents.sha256}
    assert contents.sha256 == contents_sha256(kit.file.kit)
    return bundle, kit, facts | check(contents, silent), facts | bench(contents, 1, silent)


def judged_check(made: Made, sent: Any) -> Any:
    found = codec.decode(msgspec.json.encode(sent), KitCheck, "it")
    return device_check(made[0], made[1], found)


def judged_bench(made: Made, sent: Any) -> Any:
    found = codec.decode(msgspec.json.encode(sent), KitBench, "it")
    return device_bench(made[0], QUICK, [found], "samples.json")


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a deep copy with one value replaced; ``path`` as in ``rows.0.mode``."""
    copy: Any = msgspec.json.decode(msgspec.json.encode(record))
    *way, last = path.split(".")
    at = copy
    for key in way:
        at = at[int(key)] if key.isdigit() else at[key]
    at[int(last) if last.isdigit() else last] = value
    return dict(copy)


def test_what_this_machine_sends_is_taken(made: Made) -> None:
    record = judged_check(made, made[2])
    assert record.passed
    assert {row.from_eager.values for row in record.artifacts if row.from_eager} == {20 * 1024}
    measured, samples = judged_bench(made, made[3])
    assert len(measured.latency) == len(made[3]["artifacts"])
    assert samples.startswith(b'{"bundle_id"')


def int8_row(made: Made) -> int:
    rows = made[2]["rows"]
    return next(k for k, row in enumerate(rows) if row.get("from_eager") is not None)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("host", "a\x1b[2Jb", "valid KitCheck"),
        ("host", "a\n", "valid KitCheck"),
        ("host", "x" * 301, "valid KitCheck"),
        ("machine.cores", 0, "valid KitCheck"),
        ("machine.extra", 1, "valid KitCheck"),
        ("kit", "0", "valid KitCheck"),
        ("rows.N.from_eager", [], "valid KitCheck"),
        ("rows.N.from_eager", [-1], "valid KitCheck"),
        ("rows.N.from_eager", [1] * 257, "valid KitCheck"),
        ("rows.N.from_eager", [20 * 1024 - 1], "is no histogram of 20480 values"),
        ("rows.N.from_eager", [20 * 1024, 0], "is no histogram of 20480 values"),
        ("rows.N.from_host", None, "is not what the kit asks for"),
        ("rows.N.artifact", "stranger", "not the bundle's edges"),
        ("rows.N.artifact", "server_fp32_onnx", "not the bundle's edges"),
        ("rows.N.mode", "magic", "valid KitCheck"),
    ],
)
def test_a_check_that_is_wrong(made: Made, path: str, value: Any, message: str) -> None:
    sent = changed(made[2], path.replace("N", str(int8_row(made))), value)
    with pytest.raises(RecordError, match=message):
        judged_check(made, sent)


def test_the_same_row_twice(made: Made) -> None:
    rows = made[2]["rows"]
    with pytest.raises(RecordError, match="not the bundle's edges"):
        judged_check(made, changed(made[2], "rows", [rows[0], rows[0]]))


def test_no_row_is_no_pass(made: Made) -> None:
    assert not judged_check(made, changed(made[2], "rows", [])).passed


def test_a_row_that_failed_there_fails_here(made: Made) -> None:
    row = made[2]["rows"][int8_row(made)]
    failed = {"artifact": row["artifact"], "mode": row["mode"], "failure": "no such operator"}
    record = judged_check(made, changed(made[2], "rows", [failed]))
    assert not record.passed
    assert record.artifacts[0].failure == "no such operator"
    assert [gate.name for gate in record.gates if not gate.passed] == ["runs"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("artifacts.0.blocks_ns", [], "valid KitBench"),
        ("artifacts.0.blocks_ns", [[]], "valid KitBench"),
        ("artifacts.0.blocks_ns", [[1]], "different numbers of blocks"),
        ("artifacts.0.blocks_ns.0.0", -1, "valid KitBench"),
        ("artifacts.0.cpu_seconds", 1e300, "valid KitBench"),
        ("artifacts.0.artifact", "stranger", "not the bundle's edges"),
        ("before.throttled_bits", -1, "valid KitBench"),
        ("after.temperatures_c", {"a\tb": 1.0}, "valid KitBench"),
        ("threads", 0, "valid KitBench"),
    ],
)
def test_measurements_that_are_wrong(made: Made, path: str, value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        judged_bench(made, changed(made[3], path, value))


def test_the_host_judges_throttling_itself(made: Made) -> None:
    cool = changed(changed(made[3], "before.throttled_bits", 0), "after.throttled_bits", 0)
    hot = changed(cool, "after.throttled_bits", 0x40004)
    for sent, events in ((cool, 0.0), (hot, 2.0)):
        record, _ = judged_bench(made, sent)
        found = {one.name: one.value for one in record.runs[0].timing.criteria}
        assert found["throttling events"] == events
    assert not record.valid


def test_the_folder_of_the_kit_is_not_written_to(made: Made, tmp_path: Path) -> None:
    (tmp_path / "kit.tar.gz").write_bytes(made[1].data)
    root = unpacked(tmp_path / "kit.tar.gz", tmp_path / "unpacked")
    before = sorted(root.rglob("*"))
    check(read_contents(root), silent)
    assert sorted(root.rglob("*")) == before
