"""A sweep of the tiny network that takes seconds, and how to start, kill and read it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.sweep import SweepOptions, run_sweep
from pipeline.sweep_workers import Workers
from records.grid import read_grid
from records.sweep import Sweep

ROOT = Path(__file__).resolve().parents[2]

GRID = """
schema = 1
name = "tiny-sweep"
splits = ["block1", "block3"]
boundary_bits = [8, 2]
seeds = [0]

[base]
name = "tiny-sweep"

[base.data]
train = 64
calibration = 64
attacker = 128
victims = 32

[base.model]
name = "tests.tiny_network:build"

[base.check]
# An untrained network's classes hang by a thread: these gates are tested elsewhere.
top1_agreement = 0.0
accuracy_drop_points = 100.0

[base.bench]
threads = [1]

[base.attack]
max_epochs = 2
patience = 1
# So few steps cannot reach the ceiling that a verdict asks for.
ceiling_db = 10.0
drift_tolerance_db = 3.0

# So small an attack cannot show what these ask for; they are tested with the attack.
controls = []

[attackers.budgeted]
levels = ["A0", "A1", "A3"]
query_budgets = [32]

[attackers.adaptive]

[[headline]]
split = "block3"
bits = 8
seeds = [0, 1]
attackers = ["adaptive"]
"""
#: 2 splits × 2 widths × 2 attackers, one of these groups with a second seed.
CELLS = 9


def write_grid(folder: Path, model: torch.nn.Module, text: str = GRID) -> tuple[Path, Path]:
    """Write the grid and the network's weights; return both paths."""
    grid, weights = folder / "grid.toml", folder / "tiny.safetensors"
    grid.write_text(text)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    return grid, weights


def sweep_here(grid: Path, weights: Path, out: Path, *, replace: bool = False) -> Sweep:
    """Sweep in this process, one task after the other: no start-up to pay for."""
    return run_sweep(
        read_grid(grid, weights=str(weights)), out, SweepOptions(replace=replace), Workers(jobs=1)
    )


def start(grid: Path, weights: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start ``edgeveil sweep`` in a session of its own, so that it can be killed whole."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "edgeveil", "sweep", str(grid), "--out", str(out)),
            *("--weights", str(weights), *options),
        ],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def environment() -> dict[str, str]:
    """Return an environment in which processes find this checkout and use one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def finish(process: subprocess.Popen[bytes], code: int = 0) -> bytes:
    """Wait for a sweep to end with this exit code; return its stdout."""
    out, errors = process.communicate(timeout=580)
    assert process.returncode == code, errors.decode()
    return out


def kill_when_cells(process: subprocess.Popen[bytes], out: Path, count: int) -> bool:
    """SIGKILL a sweep and its workers once so many cells are there; False when it ended first."""
    while process.poll() is None:
        if len(cell_bytes(out)) >= count:
            kill_whole(process)
            return True
        time.sleep(0.02)
    return False


def kill_whole(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def cell_bytes(out: Path) -> dict[str, bytes]:
    """Return every record of a cell, joint ones too, by its path."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for name in ("cells", "joint")
        for path in sorted((out / name).glob("*.json"))
    }
