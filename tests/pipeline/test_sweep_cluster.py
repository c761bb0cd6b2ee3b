"""A sweep on a real Dask scheduler with two worker processes, one of which is killed midway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from pipeline.sweep_tasks import Ended
from pipeline.sweep_workers import Workers, workers
from records import codec
from records.errors import InputError
from records.sweep import CellTiming, SweepCell
from tests.pipeline.tiny_sweep import (
    CELLS,
    cell_bytes,
    environment,
    finish,
    start,
    sweep_here,
    write_grid,
)

pytest.importorskip("distributed", reason="the extra cluster is not installed")

START_SECONDS = 60.0


class Cluster:
    """A scheduler and its workers on loopback, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scheduler_file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self._scheduler = self._spawn("scheduler", "--host", "127.0.0.1", "--port", "0")
        self.address = self._wait_for_address()

    def add_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Start one worker with one thread, without a nanny unless asked for."""
        kind = options or ("--no-nanny",)
        name = f"w{len(self.workers)}"
        worker = self._spawn("worker", "--nthreads", "1", "--name", name, *kind)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """Stop every process that this cluster started."""
        for process in (*self.workers, self._scheduler):
            process.terminate()
        for process in (*self.workers, self._scheduler):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _spawn(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{what}{len(self.workers)}.log"
        with log.open("wb") as file:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard"),
                    *("--scheduler-file", str(self._scheduler_file), *options),
                ],
                cwd=self._folder,
                env=environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def _wait_for_address(self) -> str:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._scheduler_file.exists():
                try:
                    return str(msgspec.json.decode(self._scheduler_file.read_bytes())["address"])
                except msgspec.DecodeError:
                    pass
            time.sleep(0.05)
        raise TimeoutError((self._folder / "scheduler0.log").read_text())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = Cluster(folder)
    yield made
    made.close()


def _processes(out: Path) -> list[int]:
    """The process of each finished cell; a timing alone is of a task that was not finished."""
    return [
        codec.read(out / "timing" / cell, CellTiming).process
        for cell in cell_bytes(out)
        if cell.startswith("cells/")
    ]


@pytest.mark.slow
def test_a_worker_killed_midway_loses_and_doubles_nothing(
    cluster: Cluster, tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    grid, weights = write_grid(tmp_path, tiny_model)
    first, second = cluster.add_worker(), cluster.add_worker()
    out = tmp_path / "sweep"
    sweep = start(grid, weights, out, "--cluster", cluster.address)
    # Midway: the worker to be killed has done a cell, and is at its next one.
    while sweep.poll() is None and first.pid not in _processes(out):
        time.sleep(0.02)
    time.sleep(0.2)
    assert sweep.poll() is None, sweep.communicate()
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = _processes(out)
    assert len(before) < CELLS
    finish(sweep)
    assert second.poll() is None
    after = _processes(out)
    assert len(after) == CELLS
    assert after.count(first.pid) == before.count(first.pid) >= 1
    assert after.count(second.pid) == CELLS - before.count(first.pid)

    undisturbed = tmp_path / "undisturbed"
    record = sweep_here(grid, weights, undisturbed)
    assert cell_bytes(out) == cell_bytes(undisturbed)
    assert (out / "sweep.json").read_bytes() == (undisturbed / "sweep.json").read_bytes()
    counted = [cell.file for group in record.groups for cell in group.cells]
    assert len(counted) == len(set(counted)) == CELLS
    places = [
        (c.split, c.boundary_bits, c.attacker, c.seeds)
        for c in (codec.decode(b, SweepCell, p) for p, b in cell_bytes(out).items())
    ]
    assert len(set(places)) == len(places) == CELLS + 1


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # joblib's backend never hears of a task that the scheduler gave up: Parallel alone would hang.
    monkeypatch.setattr("pipeline.sweep_workers.QUIET_SECONDS", 3.0)
    monkeypatch.setattr("pipeline.sweep_workers.run_task", os._exit)
    cluster.add_worker("--nanny")
    from pipeline.sweep_workers import _on_cluster

    with workers(None, cluster.address) as crew:
        calls = [(9,)]
        found = list(_on_cluster(crew.client, calls))  # type: ignore[arg-type]
    assert found == []


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_folder_says_so(
    cluster: Cluster, tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    from baseline.datasets import load_splits
    from export.build import tool_versions
    from pipeline.sweep_plan import Frame, points_of
    from records.grid import read_grid

    path, weights = write_grid(tmp_path, tiny_model)
    grid = read_grid(path, weights=str(weights))
    frame = Frame(
        folder=str(tmp_path / "elsewhere"),
        grid=grid,
        data=load_splits(grid.base.data).record,
        checkpoint_sha256="0" * 64,
        versions=tool_versions(),
    )
    cluster.add_worker()
    with workers(None, cluster.address) as crew:
        ended = list(crew.run("point", frame, points_of(grid)[:1]))
        # Without joblib and cluster the same worker code answers the same.
        here = list(Workers(jobs=1).run("point", frame, points_of(grid)[:1]))
    assert ended == here == [Ended(name="block1.b8", failure=ended[0].failure)]
    assert "does not see this sweep's folder" in str(ended[0].failure)


def test_a_scheduler_without_workers_is_an_error(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sweep_workers.CONNECT_SECONDS", 1.0)
    with (
        pytest.raises(InputError, match="has no worker; start some"),
        workers(None, cluster.address),
    ):
        pass


def test_nobody_at_the_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sweep_workers.CONNECT_SECONDS", 1.0)
    with (
        pytest.raises(InputError, match="no Dask scheduler answers"),
        workers(None, "tcp://127.0.0.1:9"),
    ):
        pass


@pytest.mark.slow
def test_one_worker_alone_works_and_not_the_coordinator(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.sweep_workers import _on_cluster

    monkeypatch.setattr("pipeline.sweep_workers.run_task", os.getpid)
    monkeypatch.setattr("pipeline.sweep_workers._decoded", int)
    worker = cluster.add_worker()
    with workers(None, cluster.address) as crew:
        calls: list[tuple[str, str, str]] = [()] * 3  # type: ignore[list-item]
        found: list[object] = list(_on_cluster(crew.client, calls))
    assert found == [worker.pid] * 3
