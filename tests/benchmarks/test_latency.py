from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks import interleaved, latency
from benchmarks.latency import X86_NOTE, bench_bundle
from benchmarks.speedup import SMALLEST_EFFECT
from records import codec
from records.bench import BenchRecord, Criterion, SamplesRecord, Startup
from records.errors import RecordError
from records.hashing import sha256_file
from records.recipe import BenchRecipe
from runtime_check import availability
from runtime_check.machine import is_x86, machine_record
from tests.benchmarks.toy_bundle import SIDE, toy_bundle

#: Made in code, where the protocol's floors are not enforced: the logic is under test here.
SHORT = BenchRecipe(threads=(1, 4096), seconds=0.15, warmup_seconds=0.05)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up is measured on a verified bundle, in test_startup."""

    def startup(bundle: Any, artifact: Any, *, threads: int, batch_size: int) -> Startup:
        return Startup(
            artifact=artifact.name,
            runtime="ort",
            threads=threads,
            batch_size=batch_size,
            timing=None,
            failure="not here",
        )

    monkeypatch.setattr(latency, "measure_startup", startup)


def _judge(monkeypatch: pytest.MonkeyPatch, *, met: bool) -> None:
    found = (Criterion(name="planted", value=float(not met), limit=0.0, met=met),)
    monkeypatch.setattr(interleaved, "criteria", lambda *_: found)


def _images(count: int = 20, side: int = SIDE) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_record_of_a_bundle_without_torch_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judge(monkeypatch, met=True)
    bundle = toy_bundle(tmp_path / "b")
    record = bench_bundle(bundle, SHORT, images=_images(), samples=tmp_path / "samples.json")
    assert record.valid
    assert [(x.artifact, x.threads) for x in record.latency] == [
        ("edge_fp32_onnx", 1),
        ("edge_int8_onnx", 1),
        ("edge_int8_wire_onnx", 1),
    ]
    assert [s.threads for s in record.skipped] == [4096]
    assert "cores" in record.skipped[0].reason
    for row in record.latency:
        t = row.timing
        assert t.samples >= 100
        assert 0 < t.min_ms <= t.p50_ms <= t.p90_ms <= t.p95_ms <= t.p99_ms <= t.max_ms
    assert len(record.speedups) == 2
    assert (X86_NOTE in record.notes) == is_x86()
    whole = replace(record, recipe=BenchRecipe())
    assert codec.decode(codec.encode(whole), BenchRecord, "here") == whole
    with pytest.raises(RecordError, match="recipe"):
        codec.decode(codec.encode(record), BenchRecord, "measured for too short a time")


def test_raw_samples_are_kept_and_give_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judge(monkeypatch, met=True)
    path = tmp_path / "samples.json"
    record = bench_bundle(toy_bundle(tmp_path / "b"), SHORT, images=_images(), samples=path)
    assert record.timing.samples is not None
    assert record.timing.samples.sha256 == sha256_file(path)
    kept = codec.read(path, SamplesRecord)
    for row, raw in zip(record.latency, kept.timing, strict=True):
        values = np.concatenate([np.array(block) for block in raw.blocks_ns])
        assert row.artifact == raw.artifact
        assert row.timing.samples == values.size
        expected = np.quantile(values, 0.5, method="inverted_cdf") / 1e6
        assert row.timing.p50_ms == pytest.approx(expected, abs=1e-6)


def test_a_planted_slow_artifact_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judge(monkeypatch, met=True)
    bundle = toy_bundle(tmp_path, side=32, repeats={"edge_fp32_onnx": 8, "edge_int8_wire_onnx": 40})
    record = bench_bundle(bundle, SHORT, images=_images(side=32))
    verdicts = {up.int8: up.timing.verdict for up in record.speedups}
    assert verdicts == {"edge_int8_onnx": "faster", "edge_int8_wire_onnx": "slower"}


def test_two_identical_artifacts_show_no_speed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judge(monkeypatch, met=True)
    bundle = toy_bundle(tmp_path, side=32)
    fp32 = bundle.artifact("edge_fp32_onnx")
    twin = replace(fp32, name="edge_int8_onnx", precision="int8")
    twins = type(bundle)(tmp_path, replace(bundle.manifest, artifacts=(fp32, twin)))
    # A quiet run's interval is a thousandth wide and shows where each session's memory lies: twins
    # need not cover 1, they must stay under the smallest effect. A busy run may err once; an
    # instrument that is biased errs always.
    for _ in range(6):
        up = bench_bundle(twins, SHORT, images=_images(side=32)).speedups[0].timing
        assert up.ratio is not None
        if up.verdict == "no speed-up shown" and abs(np.log(up.ratio)) < np.log1p(SMALLEST_EFFECT):
            return
    pytest.fail(f"six runs of twins, and the last says {up.verdict}: {up.ratio}")


def test_an_invalid_run_gives_no_speed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _judge(monkeypatch, met=False)
    record = bench_bundle(toy_bundle(tmp_path), SHORT, images=_images())
    assert not record.valid
    assert {up.timing.verdict for up in record.speedups} == {"not given"}
    assert {up.timing.ratio for up in record.speedups} == {None}
    assert record.latency


def test_two_runs_differ_only_in_timings(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path)
    first, second = (bench_bundle(bundle, SHORT, images=_images()) for _ in range(2))
    assert codec.encode(first) != codec.encode(second)
    assert codec.without_timings(first) == codec.without_timings(second)


def test_without_torch_every_lite_artifact_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = toy_bundle(tmp_path)
    onnx = bundle.artifact("edge_fp32_onnx")
    lite = replace(
        onnx, name="edge_fp32_lite", file="edge_fp32.ptl", format="torchscript-lite", opset=None
    )
    both = type(bundle)(tmp_path, replace(bundle.manifest, artifacts=(onnx, lite)))
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    record = bench_bundle(both, replace(SHORT, threads=(1,)), images=_images())
    assert [x.artifact for x in record.latency] == ["edge_fp32_onnx"]
    (skip,) = record.skipped
    assert skip.artifact == "edge_fp32_lite"
    assert "torch is not installed" in skip.reason
    assert "pip install" in skip.reason


def test_a_runtime_that_is_not_asked_for_is_skipped(tmp_path: Path) -> None:
    record = bench_bundle(toy_bundle(tmp_path), SHORT, images=_images(), runtimes=("lite",))
    assert record.runs == ()
    assert not record.valid
    assert len(record.sizes) == 3
    assert {s.reason for s in record.skipped if s.artifact} == {"its runtime was not asked for"}


def test_batch_size_and_seed_reach_the_artifact(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path)
    shape = bundle.manifest.input.shape
    first = interleaved._batch(shape, replace(SHORT, batch_size=3, seed=1))
    assert first.shape == (3, *shape)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(
        first, interleaved._batch(shape, replace(SHORT, batch_size=3, seed=1))
    )
    assert not np.array_equal(
        first, interleaved._batch(shape, replace(SHORT, batch_size=3, seed=2))
    )
    record = bench_bundle(bundle, replace(SHORT, batch_size=3), images=_images())
    assert {row.batch_size for row in record.latency} == {3}


def test_notes_say_what_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "is_x86", lambda: True)
    machine = replace(machine_record(), virtual="container", ort_mode="precise")
    notes = latency._notes(machine)
    assert notes[0] == X86_NOTE
    assert "container" in notes[1]
    assert "precise" in notes[2]
    assert msgspec.json.encode(notes)
