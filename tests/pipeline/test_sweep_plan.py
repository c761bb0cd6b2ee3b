"""The plan of a sweep, the second try of what was lost, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sweep_plan import Cell, Frame, Point, baselines_of, groups_of, points_of
from pipeline.sweep_table import with_pareto
from pipeline.sweep_tasks import Ended, Job
from pipeline.sweep_workers import SweepError, Workers, run_until_done, workers
from records.errors import InputError, UnsupportedHereError
from records.grid import Grid, read_grid
from records.progress import silent
from records.sweep import Candidate

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
POINTS = tuple(Point(split="a", bits=bits) for bits in (8, 4, 2))


@pytest.fixture
def grid() -> Grid:
    return read_grid(RECIPES / "cifar100_sweep.toml")


def test_every_combination_is_planned_once(grid: Grid) -> None:
    cells = [cell for group in groups_of(grid) for cell in group.cells]
    assert len(points_of(grid)) == 16
    assert len({cell.file for cell in cells}) == len(cells) == 16 + 2
    joint = [group.joint for group in groups_of(grid) if group.joint is not None]
    assert [j.name for j in joint] == ["features.3.b8.adaptive.joint"]


def test_fp32_decoders_are_trained_once_a_split_and_seed(grid: Grid) -> None:
    cells = tuple(cell for group in groups_of(grid) for cell in group.cells)
    found = baselines_of(cells)
    assert [(b.split, b.seed) for b in found] == [
        ("features.1", 0),
        ("features.3", 0),
        ("features.3", 1),
        ("features.3", 2),
        ("features.8", 0),
        ("avgpool", 0),
    ]
    two = msgspec.structs.replace(cells[0], attacker="other")
    assert baselines_of((cells[0], two, two))[0].attackers == ("adaptive", "other")


@dataclass
class Losing:
    """A crew that does what it is asked, except for the jobs that it loses or refuses."""

    loses: dict[str, int] = field(default_factory=dict)
    refuses: frozenset[str] = frozenset()
    done: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def run(self, kind: str, frame: Frame, jobs: Sequence[Job]) -> Iterator[Ended]:
        del kind, frame
        for job in jobs:
            self.asked.append(job.name)
            if job.name in self.refuses:
                yield Ended(name=job.name, failure="DataError: no")
                continue
            self.loses[job.name] = self.loses.get(job.name, 0) - 1
            if self.loses[job.name] < 0:
                self.done.add(job.name)
                yield Ended(name=job.name)


def _run(crew: Losing) -> None:
    run_until_done(
        cast("Workers", crew),
        "point",
        cast("Frame", None),
        POINTS,
        lambda job: job.name in crew.done,
        silent,
        "points",
    )


def test_what_is_done_is_not_asked_for_again() -> None:
    crew = Losing(done={"a.b4"})
    _run(crew)
    assert crew.asked == ["a.b8", "a.b2"]


def test_what_a_dead_worker_lost_is_tried_once_more() -> None:
    crew = Losing(loses={"a.b4": 1})
    _run(crew)
    assert crew.asked == ["a.b8", "a.b4", "a.b2", "a.b4"]


def test_what_is_lost_twice_fails_by_name() -> None:
    crew = Losing(loses={"a.b4": 2})
    with pytest.raises(SweepError, match=r"1 of 3 points are missing: a\.b4: its worker died"):
        _run(crew)


def test_what_is_refused_fails_with_its_reason_and_stops_no_other() -> None:
    crew = Losing(refuses=frozenset({"a.b8"}))
    with pytest.raises(SweepError, match=r"a\.b8: DataError: no"):
        _run(crew)
    assert crew.asked == ["a.b8", "a.b4", "a.b2"]
    assert crew.done == {"a.b4", "a.b2"}


def test_a_claim_without_a_file_is_not_believed() -> None:
    class Liar(Losing):
        def run(self, kind: str, frame: Frame, jobs: Sequence[Job]) -> Iterator[Ended]:
            yield from super().run(kind, frame, jobs)
            self.done.clear()

    with pytest.raises(SweepError, match="3 of 3"):
        _run(Liar())


def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_dask(name: str) -> object | None:
        return None if name == "dask" else name

    monkeypatch.setattr("pipeline.sweep_workers.find_spec", without_dask)
    with workers(1, None):
        pass
    with (
        pytest.raises(UnsupportedHereError, match=r"edgeveil\[cluster\]") as caught,
        workers(None, "tcp://127.0.0.1:1"),
    ):
        pass
    assert caught.value.exit_code == 3


def test_an_address_must_be_one() -> None:
    with pytest.raises(InputError, match="no address such as tcp"), workers(None, "127.0.0.1:1"):
        pass


def _candidate(costs: Sequence[float], *, reference: bool = False) -> Candidate:
    drop, leak, wire, size = costs
    return Candidate(
        split="a",
        boundary_bits=None if reference else 8,
        artifact="x",
        reference=reference,
        bundle_id="0" * 64,
        top1=0.5,
        drop_points=(drop, drop, drop),
        leak_db=leak,
        leak_by="adaptive A1",
        recon_psnr_db=leak,
        verdict=None,
        wire_bytes=int(wire),
        weight_bytes=1,
        file_bytes=int(size),
        pareto=False,
    )


def _front(*costs: Sequence[float]) -> list[bool]:
    return [c.pareto for c in with_pareto([_candidate(c) for c in costs])]


def test_the_front_by_hand() -> None:
    assert _front((0, 9, 8, 8), (1, 5, 8, 8), (1, 6, 8, 8), (2, 5, 4, 8)) == [
        True,
        True,
        False,
        True,
    ]
    assert _front((0, 1, 1, 1), (0, 1, 1, 1)) == [True, True]


def test_a_reference_neither_is_on_the_front_nor_dominates() -> None:
    best = _candidate((0, 0, 0, 0), reference=True)
    marked = with_pareto([best, _candidate((1, 1, 1, 1))])
    assert [c.pareto for c in marked] == [False, True]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=12))
def test_the_front_dominates_the_rest_and_not_itself(costs: list[Any]) -> None:
    front = [c for c, on in zip(costs, _front(*costs), strict=True) if on]
    rest = [c for c, on in zip(costs, _front(*costs), strict=True) if not on]

    def dominates(a: Any, b: Any) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    assert not any(dominates(a, b) for a in front for b in front)
    assert all(any(dominates(a, b) for a in front) for b in rest)


def test_names_are_file_names() -> None:
    cell = Cell(point=POINTS[0], attacker="strong", seeds=(3,))
    assert cell.file == "cells/a.b8.strong.s3.json"
    assert msgspec.structs.replace(cell, seeds=(0, 1)).file == "joint/a.b8.strong.joint.json"
