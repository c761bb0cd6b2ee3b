"""A whole sweep here: what it leaves, killed and resumed, changed grids, refusals."""

from __future__ import annotations

import random
import time
from pathlib import Path

import msgspec
import pytest
import torch

from pipeline.sweep_plan import Frame, finished_cell, groups_of
from records import codec
from records.bench import BenchRecord
from records.errors import OverwriteError
from records.grid import read_grid
from records.manifest import Manifest
from records.sweep import CellTiming, Sweep, SweepCell
from tests.pipeline.tiny_sweep import (
    CELLS,
    GRID,
    cell_bytes,
    finish,
    kill_when_cells,
    kill_whole,
    start,
    sweep_here,
    write_grid,
)


class Swept:
    """An undisturbed sweep with two local processes."""

    def __init__(self, folder: Path, model: torch.nn.Module) -> None:
        self.grid, self.weights = write_grid(folder, model)
        self.out = folder / "sweep"
        begin = time.perf_counter()
        printed = finish(start(self.grid, self.weights, self.out, "--jobs", "2", "--json"))
        self.seconds = time.perf_counter() - begin
        self.record = codec.decode(printed, Sweep, "stdout")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny_model: torch.nn.Module) -> Swept:
    return Swept(tmp_path_factory.mktemp("sweep"), tiny_model)


@pytest.mark.slow
def test_every_cell_has_one_record(swept: Swept) -> None:
    cells = {p: b for p, b in cell_bytes(swept.out).items() if p.startswith("cells/")}
    assert len(cells) == CELLS == sum(len(g.cells) for g in swept.record.groups)
    assert list(cell_bytes(swept.out).keys() - cells.keys()) == [
        "joint/block3.b8.adaptive.joint.json"
    ]
    assert {g.joint is not None for g in swept.record.groups} == {True, False}
    assert codec.read(swept.out / "sweep.json", Sweep) == swept.record
    assert swept.record.gates_passed


@pytest.mark.slow
def test_a_cell_s_record_holds_its_figures_and_no_clock(swept: Swept) -> None:
    cell = codec.read(swept.out / "cells" / "block3.b2.adaptive.s0.json", SweepCell)
    assert codec.without_timings(cell) == msgspec.json.decode(codec.encode(cell))
    assert (cell.wire_values, cell.wire_bytes) == (16 * 8 * 8, 16 * 8 * 8 * 2 // 8)
    manifest = codec.read(swept.out / "points" / "block3.b2" / "bundle" / "manifest.json", Manifest)
    assert cell.bundle_id == manifest.bundle_id
    assert manifest.recipe.export.boundary_bits == 2
    names = {a.name: a for a in cell.artifacts}
    assert len(names) == 5
    budgeted = codec.read(swept.out / "cells" / "block3.b2.budgeted.s0.json", SweepCell)
    assert [x.queries for x in budgeted.artifacts[0].levels] == [None, None, 32]
    for artifact in cell.artifacts:
        assert [x.level for x in artifact.levels] == ["A0", "A1"]
        assert artifact.max_leak_db == max(x.leak_db for x in artifact.levels)
        assert (artifact.verdict is None) == (artifact.precision == "fp32")
        stored = next(a for a in manifest.artifacts if a.name == artifact.name)
        assert (artifact.file_bytes, artifact.weight_bytes) == (stored.size, stored.weight_bytes)
    timing = codec.read(swept.out / "timing" / "cells" / "block3.b2.adaptive.s0.json", CellTiming)
    assert timing.seconds > 0


@pytest.mark.slow
def test_a_point_sends_as_many_bits_as_its_name_says(swept: Swept) -> None:
    for point in ("block1.b2", "block3.b8"):
        path = swept.out / "points" / point / "bundle" / "manifest.json"
        assert codec.read(path, Manifest).wire.bits == int(point[-1])


@pytest.mark.slow
def test_the_joint_verdict_is_over_both_seeds(swept: Swept) -> None:
    joint = codec.read(swept.out / "joint" / "block3.b8.adaptive.joint.json", SweepCell)
    seeds = [
        codec.read(swept.out / "cells" / f"block3.b8.adaptive.s{seed}.json", SweepCell)
        for seed in (0, 1)
    ]
    assert joint.seeds == (0, 1)
    for artifact in joint.artifacts:
        for level in artifact.levels:
            single = [
                next(x for x in a.levels if x.level == level.level).recon_psnr_db
                for cell in seeds
                for a in cell.artifacts
                if a.name == artifact.name
            ]
            assert len(set(single)) == 2
            assert level.recon_psnr_db == pytest.approx(sum(single) / 2)


@pytest.mark.slow
def test_a_second_sweep_does_nothing_again(swept: Swept) -> None:
    def times() -> dict[Path, int]:
        done = [*swept.out.glob("cells/*"), *swept.out.glob("joint/*"), *swept.out.glob("stages/*")]
        return {p: p.stat().st_mtime_ns for p in (*done, *swept.out.glob("timing/cells/*"))}

    before = times()
    sweep_here(swept.grid, swept.weights, swept.out)
    assert times() == before


@pytest.mark.slow
def test_three_kills_change_no_byte(swept: Swept, tmp_path: Path) -> None:
    draw = random.Random(8)
    out = tmp_path / "sweep"
    killed = 0
    # One kill somewhere before the first cell, two while cells are being written.
    process = start(swept.grid, swept.weights, out, "--jobs", "2")
    time.sleep(draw.uniform(0.2, 0.5) * swept.seconds)
    if process.poll() is None:
        kill_whole(process)
        killed += 1
    for count in sorted(draw.sample(range(1, CELLS), 2)):
        killed += kill_when_cells(start(swept.grid, swept.weights, out, "--jobs", "2"), out, count)
        for data in cell_bytes(out).values():
            codec.decode(data, SweepCell, "a cell after a kill")
    assert killed == 3
    assert 1 <= len(cell_bytes(out)) < CELLS + 1
    finish(start(swept.grid, swept.weights, out, "--jobs", "2"))
    assert cell_bytes(out) == cell_bytes(swept.out)
    assert (out / "sweep.json").read_bytes() == (swept.out / "sweep.json").read_bytes()
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_a_damaged_or_changed_record_is_made_again(swept: Swept) -> None:
    before = cell_bytes(swept.out)
    damaged = swept.out / "cells" / "block1.b8.budgeted.s0.json"
    damaged.write_bytes(damaged.read_bytes()[:100])
    changed = swept.out / "cells" / "block1.b2.budgeted.s0.json"
    record = codec.read(changed, SweepCell)
    changed.write_bytes(codec.encode(msgspec.structs.replace(record, key="0" * 64)))
    sweep_here(swept.grid, swept.weights, swept.out)
    assert cell_bytes(swept.out) == before


@pytest.mark.slow
def test_another_grid_is_refused_and_then_replaces(
    swept: Swept, tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    small = GRID.replace('["block1", "block3"]', '["block1"]').replace("[8, 2]", "[8]")
    small = small[: small.index("[[headline]]")]
    first, weights = write_grid(tmp_path, tiny_model, small)
    out = tmp_path / "sweep"
    sweep_here(first, weights, out)
    kept = (out / "cells" / "block1.b8.budgeted.s0.json").stat().st_mtime_ns
    first.write_text(small.replace("[attackers.adaptive]", ""))
    with pytest.raises(OverwriteError, match="another grid"):
        sweep_here(first, weights, out)
    assert len(cell_bytes(out)) == 2
    sweep_here(first, weights, out, replace=True)
    assert list(cell_bytes(out)) == ["cells/block1.b8.budgeted.s0.json"]
    assert (out / "cells" / "block1.b8.budgeted.s0.json").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_a_failed_control_exits_2_and_is_named(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    text = GRID.replace('["block1", "block3"]', '["block1"]').replace("[8, 2]", "[8]")
    text = text[: text.index("[[headline]]")].replace("[attackers.adaptive]", "")
    grid, weights = write_grid(
        tmp_path, tiny_model, text.replace("ceiling_db = 10.0", "ceiling_db = 99.9")
    )
    process = start(grid, weights, tmp_path / "sweep", "--jobs", "1")
    _, errors = process.communicate(timeout=580)
    assert process.returncode == 2, errors.decode()
    assert b"block1 at 8 bits, budgeted" in errors
    cell = codec.read(tmp_path / "sweep" / "cells" / "block1.b8.budgeted.s0.json", SweepCell)
    assert not cell.gates_passed
    assert [g.stage for g in cell.failed_gates] == ["attack"]
    assert cell.verdict == "INCONCLUSIVE"


@pytest.mark.slow
def test_latency_is_measured_last_once_and_beside_the_cells(
    tmp_path: Path, tiny_model: torch.nn.Module
) -> None:
    text = GRID.replace('["block1", "block3"]', '["block1"]').replace("[8, 2]", "[8]")
    text = text[: text.index("[[headline]]")].replace(
        "seeds = [0]", "seeds = [0]\nlatency = true", 1
    )
    grid, weights = write_grid(tmp_path, tiny_model, text)
    out = tmp_path / "sweep"
    record = sweep_here(grid, weights, out)
    (row,) = record.timing.latency
    stored = out / "timing" / "latency" / "block1.b8.json"
    bench = codec.read(stored, BenchRecord)
    assert (row.split, row.boundary_bits, row.valid) == ("block1", 8, bench.valid)
    assert (row.int8_p50_ms is None) == (not bench.valid)
    assert {x.runtime for x in bench.latency} == {"ort"}
    last_cell = max(p.stat().st_mtime_ns for p in (out / "cells").iterdir())
    assert stored.stat().st_mtime_ns > last_cell
    again = sweep_here(grid, weights, out)
    assert again == record


@pytest.mark.slow
def test_a_folder_that_is_no_sweep_is_left_alone(swept: Swept, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OverwriteError, match="holds no sweep"):
        sweep_here(swept.grid, swept.weights, tmp_path, replace=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_key_depends_on_what_decides_the_record(swept: Swept) -> None:
    grid = read_grid(swept.grid, weights=str(swept.weights))
    record = swept.record
    frame = Frame(
        folder=str(swept.out),
        grid=grid,
        data=record.data,
        checkpoint_sha256=record.checkpoint_sha256,
        versions=record.versions,
    )
    cell = groups_of(grid)[0].cells[0]
    stored = codec.read(swept.out / cell.file, SweepCell)
    assert finished_cell(frame, cell, stored.bundle_id) == stored
    assert finished_cell(frame, cell, "0" * 64) is None
    other = msgspec.structs.replace(frame, versions=record.versions | {"torch": "0"})
    assert finished_cell(other, cell, stored.bundle_id) is None


def test_no_scheduler_is_said_in_one_sentence(tmp_path: Path, tiny_model: torch.nn.Module) -> None:
    grid, weights = write_grid(tmp_path, tiny_model)
    process = start(grid, weights, tmp_path / "sweep", "--cluster", "127.0.0.1:1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"is no address such as tcp://" in errors
    assert not (tmp_path / "sweep").exists()
