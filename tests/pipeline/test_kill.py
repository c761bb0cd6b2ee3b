"""SIGKILL at random moments of ``edgeveil run``; every restart must end with the same records."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from export.bundle import load_bundle
from records import codec

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).with_name("tiny.toml")
KILLS = int(os.environ.get("EDGEVEIL_TEST_KILLS", "10"))


def _start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgeveil", "run", str(RECIPE), "--out", str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _finish(folder: Path) -> None:
    process = _start(folder)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def _kill_after(folder: Path, seconds: float) -> bool:
    """Start a run, SIGKILL it and its children after a while; False when it had ended."""
    process = _start(folder)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, errors.decode()
    return False


def _records(folder: Path) -> dict[str, Any]:
    """Every JSON record of a run without its wall-clock facts; what is hashed of other files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        place = path.relative_to(folder)
        if place.parts[0] in {"stages", "cache"} or "bench" in place.name:
            continue
        found[place.as_posix()] = codec.without_timings(msgspec.json.decode(path.read_bytes()))
    bench = msgspec.json.decode((folder / "features.3" / "bench.json").read_bytes())
    found["bench"] = sorted(codec.without_timings(bench))
    return found


def _assert_whole(folder: Path) -> None:
    """Whatever has its final name is complete, at whatever moment the run was killed."""
    for path in folder.rglob("*.json"):
        if not any(part.endswith(".partial") for part in path.relative_to(folder).parts):
            msgspec.json.decode(path.read_bytes())
    bundle = folder / "features.3" / "bundle"
    if bundle.exists():
        load_bundle(bundle)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start = time.perf_counter()
    _finish(folder)
    return folder, time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_kills_change_nothing(undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    reference, seconds = undisturbed
    draw = random.Random(20)
    folder = tmp_path / "run"
    killed = 0
    while killed < KILLS:
        # Start-up alone takes seconds: a kill is drawn from what one undisturbed run takes, but
        # early enough that all ten happen before the resumed run gets to its end.
        if not _kill_after(folder, draw.uniform(0.02, 0.3) * seconds):
            _assert_whole(folder)
            folder = tmp_path / f"run{killed}"
            continue
        killed += 1
        _assert_whole(folder)
    _finish(folder)
    assert _records(folder) == _records(reference)
    for done in tmp_path.iterdir():
        if (done / "report").exists():
            assert _records(done) == _records(reference)
    assert not list(folder.rglob("*.partial"))


@pytest.mark.slow
def test_a_second_run_skips_every_stage(undisturbed: tuple[Path, float]) -> None:
    folder, _ = undisturbed
    before = {p: p.stat().st_mtime_ns for p in (folder / "stages").iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", "edgeveil", "run", str(RECIPE), "--out", str(folder), "--json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    record = msgspec.json.decode(done.stdout)
    assert len(record["skipped"]) == len(record["stages"]) == 6
    assert {p: p.stat().st_mtime_ns for p in (folder / "stages").iterdir()} == before


@pytest.mark.slow
def test_another_recipe_is_refused(undisturbed: tuple[Path, float], tmp_path: Path) -> None:
    folder, _ = undisturbed
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.read_text().replace("epochs = 3\nbatch", "epochs = 4\nbatch"))
    done = subprocess.run(
        [sys.executable, "-m", "edgeveil", "run", str(other), "--out", str(folder)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"made with another recipe" in done.stderr
