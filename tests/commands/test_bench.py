"""``edgeveil bench``: with torch and without, exit codes, records, what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import interleaved, latency, timing
from benchmarks.size import runtime_name
from records import codec
from records.bench import BenchRecord, Criterion, SamplesRecord, Startup
from records.hashing import sha256_file
from runtime_check import availability
from tests.commands.exit_codes import exit_code_of
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from torch import nn

    from export.bundle import Bundle
    from records.manifest import Artifact

#: What a core install does not have. An entry of None makes an import fail as if it were absent.
EXTRA = (
    *("torch", "torchvision", "onnx", "onnxscript", "skimage", "scipy"),
    *("safetensors", "matplotlib", "jinja2", "PIL"),
)
EDGES = ("edge_fp32", "edge_int8", "edge_int8_wire")


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    made, _ = tiny_bundle(tmp_path_factory.mktemp("bench"), tiny_model, tiny_images)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of each artifact: what the command does with the record is under test."""

    def interleave(
        subjects: Sequence[timing.Subject], *_: object, **__: object
    ) -> tuple[timing.Measured, ...]:
        for subject in subjects:
            subject.run()
        return tuple(
            timing.Measured(s.name, ((1000, 1000), (1000, 1000)), 1.0, 1.0) for s in subjects
        )

    def startup(_: Bundle, artifact: Artifact, *, threads: int, batch_size: int) -> Startup:
        return Startup(
            artifact=artifact.name,
            runtime=runtime_name(artifact),
            threads=threads,
            batch_size=batch_size,
            timing=None,
            failure="planted failure",
        )

    monkeypatch.setattr(interleaved, "interleave", interleave)
    monkeypatch.setattr(latency, "measure_startup", startup)


def _judge(monkeypatch: pytest.MonkeyPatch, *, met: bool) -> None:
    found = (Criterion(name="planted noise", value=float(not met), limit=0.0, met=met),)
    monkeypatch.setattr(interleaved, "criteria", lambda *_: found)


def _exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return exit_code_of(monkeypatch, "bench", *arguments)


@pytest.mark.slow
def test_whole_protocol_from_a_core_install(bundle: Bundle, tmp_path: Path) -> None:
    hide = f"import sys\nsys.modules.update(dict.fromkeys({EXTRA!r}))\n"
    (tmp_path / "sitecustomize.py").write_text(hide, encoding="utf-8")
    command = [sys.executable, "-m", "edgeveil", "bench", str(bundle.folder), "--threads", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "pi.json"), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    record = codec.decode(done.stdout.encode(), BenchRecord, "stdout")
    assert record == codec.read(tmp_path / "pi.json", BenchRecord)
    assert [x.artifact for x in record.latency] == [f"{edge}_onnx" for edge in EDGES]
    assert {s.artifact for s in record.skipped} == {f"{edge}_lite" for edge in EDGES}
    assert all("torch is not installed" in s.reason for s in record.skipped)
    assert all(s.timing is not None for s in record.startup)
    # The data are an npz file, so the victims load without any extra.
    assert record.wire.compressed is not None
    for row in record.latency:
        assert row.timing.samples >= 100
        assert row.timing.samples * row.timing.mean_ms >= 2999
    samples = tmp_path / "pi-samples.json"
    assert record.timing.samples is not None
    assert record.timing.samples.sha256 == sha256_file(samples)
    assert len(codec.read(samples, SamplesRecord).timing) == 3


@pytest.mark.usefixtures("quick")
def test_every_edge_in_both_runtimes(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _judge(monkeypatch, met=True)
    out = tmp_path / "bench.json"
    assert _exit_code(monkeypatch, bundle.folder, "--threads", "1,2", "--out", out) == 0
    record = codec.read(out, BenchRecord)
    assert {x.artifact for x in record.latency} == {
        f"{edge}_{end}" for edge in EDGES for end in ("onnx", "lite")
    }
    assert {x.mode for x in record.latency if x.runtime == "lite"} == {"qnnpack"}
    across = [up for up in record.speedups if not up.same_runtime]
    assert len(across) == len(record.speedups) / 2
    assert all(
        ("optimize_for_mobile" in (up.note or "")) == up.fp32.endswith("lite")
        for up in record.speedups
    )
    shown = capsys.readouterr().out
    assert "no speed" in shown
    assert "planted" in shown
    assert "INVALID" not in shown


@pytest.mark.usefixtures("quick")
def test_the_way_out_is_printed_whole(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _judge(monkeypatch, met=True)
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    assert _exit_code(monkeypatch, bundle.folder, "--threads", "1", "--out", tmp_path / "b") == 0
    # Square brackets are markup to rich: unescaped, the extra's name would vanish.
    assert "pip install '.[export]'" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("quick")
def test_invalid_is_shown_and_exits_0_or_2(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _judge(monkeypatch, met=False)
    out = tmp_path / "bench.json"
    arguments = (bundle.folder, "--threads", "1", "--runtime", "onnx", "--out", out)
    assert _exit_code(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert "INVALID" in shown
    assert "planted noise" in shown
    assert _exit_code(monkeypatch, *arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert _exit_code(monkeypatch, *arguments, "--force", "--strict") == 2
    assert "planted noise" in capsys.readouterr().err
    assert not codec.read(out, BenchRecord).valid


@pytest.mark.usefixtures("quick")
def test_the_default_place_is_beside_the_bundles_folder(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judge(monkeypatch, met=True)
    assert _exit_code(monkeypatch, bundle.folder, "--threads", "1", "--runtime", "onnx") == 0
    record = codec.read(bundle.folder.parent / "bench.json", BenchRecord)
    assert {s.reason for s in record.skipped} == {"its runtime was not asked for"}
    assert (bundle.folder.parent / "bench-samples.json").exists()


def test_more_threads_than_cores_only_exits_3(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "bench.json"
    assert _exit_code(monkeypatch, bundle.folder, "--threads", "1024", "--out", out) == 3
    assert "cores" in capsys.readouterr().err
    assert codec.read(out, BenchRecord).sizes


@pytest.mark.parametrize("threads", ["", "0", "1,", "a", "-1", "٣", "99999"])
def test_a_bad_list_of_threads_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    out = tmp_path / "bench.json"
    assert _exit_code(monkeypatch, bundle.folder, "--threads", threads, "--out", out) == 1
    assert not out.exists()


def test_no_bundle_no_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_code(monkeypatch, tmp_path / "nothing") == 1
    assert "ManifestError" in capsys.readouterr().err
