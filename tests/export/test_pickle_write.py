"""What is written is what the walk reads, and equal parts are written once."""

from __future__ import annotations

import pickle  # noqa: TID251 - the standard library is the oracle for plain values
import pickletools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.pickle_walk import AllowList, Call, Instance, Name, Persistent, walk
from export.pickle_write import write_pickle

EVERYTHING = AllowList(*[lambda _: True] * 3)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back_from_the_walk_and_from_the_standard_library(value: Any) -> None:
    written = write_pickle(value)
    # repr tells 1 from True and 0.0 from -0.0, which equality does not.
    assert repr(walk(written, EVERYTHING).value) == repr(value)
    assert repr(pickle.loads(written)) == repr(value)  # noqa: S301 - written above


def tensor(start: int) -> Call:
    key = ("storage", Name("torch FloatStorage"), "0.storage", "cpu", 400)
    empty = Call(Name("collections OrderedDict"), ())
    arguments = (Persistent(key), start, (300,), (1,), False, empty)
    return Call(Name("torch._utils _rebuild_tensor_v2"), arguments)


def test_records_come_back_and_equal_ones_are_written_once() -> None:
    packed = Instance(Name("__torch__ Packed"), ("2", [tensor(0), tensor(7)], tensor(0)))
    value = (packed, tensor(0), packed)
    written = write_pickle(value)
    found = walk(written, EVERYTHING)
    assert found.value == value
    assert found.value[0] is found.value[2]
    assert len(found.persistent) == 1
    assert [call.arguments[1] for call in found.calls if len(call.arguments) == 6] == [0, 7]
    assert written.count(b"FloatStorage") == 1


def test_more_parts_than_one_byte_can_number_come_back() -> None:
    value = tuple(f"text {k}" for k in range(400)) * 2
    written = write_pickle(value)
    assert walk(written, EVERYTHING).value == value
    names = {opcode.name for opcode, _, _ in pickletools.genops(written)}
    assert {"BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"} <= names


def test_lists_that_are_equal_but_two_stay_two() -> None:
    first, second = walk(write_pickle(([1, 2], [1, 2])), EVERYTHING).value
    assert first == second
    assert first is not second


@pytest.mark.parametrize(
    ("value", "error"), [({1, 2}, TypeError), (b"x", TypeError), (1 << 63, OverflowError)]
)
def test_what_torch_cannot_read_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        write_pickle(("before", value))
