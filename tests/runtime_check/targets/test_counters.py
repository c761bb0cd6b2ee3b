from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records.errors import ArtifactError
from runtime_check.targets.counters import (
    CLASSES,
    Mark,
    differences,
    median_counts,
    parse_marks,
)
from runtime_check.targets.emulator import SOURCE
from tests.runtime_check.targets.here import marks

_COUNTS = st.fixed_dictionaries({name: st.integers(0, 2**64 - 1) for name in CLASSES})
_MARKS = st.lists(st.builds(Mark, st.integers(0, 2**64 - 1), _COUNTS))


@given(_MARKS)
def test_what_is_written_is_read(written: list[Mark]) -> None:
    lines = [
        f"mark {one.number} " + " ".join(f"{name}={one.counts[name]}" for name in CLASSES)
        for one in written
    ]
    assert parse_marks("\n".join(lines)) == tuple(written)


def test_the_plugin_writes_the_classes_in_this_order() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    listed = source[source.index("names[CLASSES] = {") :].split("{")[1].split("}")[0]
    assert tuple(part.strip().strip('"') for part in listed.split(",")) == CLASSES


@pytest.mark.parametrize(
    "text",
    [
        "mark 1",
        marks(5).strip() + " sve=1",
        marks(5).replace("mark", "Mark"),
        marks(5).replace("all=5", "all=-5"),
        marks(5)[:-4],
        "\n" + marks(5),
        marks(5).replace("5", "5" * 21),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="no mark"):
        parse_marks(text)


def test_instructions_lie_between_two_marks() -> None:
    found = differences(parse_marks(marks(100, 130, 200)), 0, 2)
    assert [one["all"] for one in found] == [30, 70]
    assert [one["dot"] for one in found] == [0, 0]


@pytest.mark.parametrize(
    ("text", "first", "count", "message"),
    [
        (marks(100, 130), 0, 2, "cut off"),
        (marks(100, 130, 200), 1, 2, "cut off"),
        (marks(100, 130) + marks(100), 0, 1, "cut off"),
        (marks(130, 100), 0, 1, "backwards"),
    ],
)
def test_marks_that_are_missing_or_disturbed_are_refused(
    text: str, first: int, count: int, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        differences(parse_marks(text), first, count)


def test_one_disturbed_inference_drops_out() -> None:
    found = differences(parse_marks(marks(0, 10, 20, 1030, 1040)), 0, 4)
    assert median_counts(found)["all"] == 10
