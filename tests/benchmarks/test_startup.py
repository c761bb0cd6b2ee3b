from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import startup, startup_probe
from benchmarks.startup import measure_startup
from benchmarks.startup_probe import peak_bytes
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from torch import nn

    from export.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    made, _ = tiny_bundle(tmp_path_factory.mktemp("startup"), tiny_model, tiny_images)
    return made


@pytest.mark.parametrize("name", ["edge_fp32_onnx", "edge_int8_wire_onnx", "edge_int8_lite"])
def test_a_fresh_process_tells_time_and_memory(bundle: Bundle, name: str) -> None:
    found = measure_startup(bundle, bundle.artifact(name), threads=1, batch_size=2)
    assert found.failure is None
    assert found.timing is not None
    assert found.timing.load_ms > 0
    assert found.timing.first_inference_ms > 0
    assert found.timing.added_bytes == found.timing.peak_bytes - found.timing.baseline_bytes
    # An interpreter with numpy alone has more than 10 MB.
    assert found.timing.baseline_bytes > 10_000_000


def test_an_artifact_that_fails_there_is_a_failure_and_no_crash(bundle: Bundle) -> None:
    command = [sys.executable, "-P", "-m", "benchmarks.startup_probe", str(bundle.folder)]
    found = startup._ask([*command, "no_such_artifact", "1", "1"])
    assert found[0] is None
    assert "no_such_artifact" in (found[1] or "")


def test_a_hanging_process_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "TIMEOUT_SECONDS", 0.2)
    found = startup._ask([sys.executable, "-c", "import time; time.sleep(60)"])
    assert found == (None, "no answer within 0.2 s")


def test_an_answer_that_is_none_is_a_failure() -> None:
    timing, failure = startup._ask([sys.executable, "-c", "print('{}')"])
    assert timing is None
    assert "load_ms" in (failure or "")


def test_peak_follows_what_is_allocated() -> None:
    code = (
        "import numpy as np; from benchmarks.startup_probe import _reset_peak, peak_bytes;"
        "reset = _reset_peak(); before = peak_bytes(); x = np.ones(10_000_000); del x;"
        "print(reset, peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    reset, added = done.stdout.split()
    assert int(added) == pytest.approx(80e6, rel=0.05)
    assert reset in {"True", "False"}


def test_without_proc_the_peak_is_getrusages(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path, encoding: str | None = None) -> str:
        raise FileNotFoundError(self)

    from_proc = peak_bytes()
    monkeypatch.setattr(Path, "read_text", missing)
    assert startup_probe.peak_bytes() >= from_proc * 0.5
