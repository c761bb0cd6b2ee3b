"""The lines of the trace of calls; what the plugin writes is checked under the emulator."""

from __future__ import annotations

import pytest

from records.errors import ArtifactError
from runtime_check.targets.call_trace import Call, parse_trace

#: The first mark ends what lies before the first run.
TRACE = """\
call 10 9 5 6
mark 0 100
call 55aa 4000 110 150
call 66bb 5000 112 120
call 55aa 4100 160 190
mark 1 200
call 55aa 4000 210 250
mark 2 300
"""


def test_runs_lie_between_marks() -> None:
    first, second = parse_trace(TRACE, 0, 2)
    assert (first.begin, first.end, first.instructions) == (100, 200, 100)
    assert first.sites == {
        0x55AA: (Call(0x4000, 110, 150), Call(0x4100, 160, 190)),
        0x66BB: (Call(0x5000, 112, 120),),
    }
    assert [call.instructions for call in first.sites[0x55AA]] == [40, 30]
    assert second.sites == {0x55AA: (Call(0x4000, 210, 250),)}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mark 2 300\n", "", "cut off"),
        ("mark 1 200", "mark 7 200", "cut off"),
        ("call 66bb 5000 112 120", "call 66bb 5000 112", "no line of it"),
        ("call 66bb 5000 112 120", "call xyz 5000 112 120", "no line of it"),
        ("4000 110 150", "4000 150 110", "backwards"),
        ("4100 160 190", "4100 105 190", "backwards"),
        ("4100 160 190", "4100 160 201", "backwards"),
        ("mark 2 300", "mark 2 240", "backwards"),
    ],
)
def test_a_trace_that_was_cut_off_or_disturbed_is_refused(old: str, new: str, said: str) -> None:
    assert old in TRACE
    with pytest.raises(ArtifactError, match=said):
        parse_trace(TRACE.replace(old, new), 0, 2)
