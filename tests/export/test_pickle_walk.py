"""The pickle walker: what torch writes becomes inert records, everything else is refused."""

from __future__ import annotations

import contextlib
import os
import pickle  # noqa: TID251 - the oracle, and the maker of hostile bytes; nothing is loaded
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.pickle_walk import (
    MAX_DEPTH,
    AllowList,
    Call,
    ForbiddenNameError,
    Instance,
    Name,
    NonFiniteNumberError,
    Persistent,
    PickleError,
    walk,
)

ALLOWED = AllowList(
    name=lambda text: text in {"torch rebuild", "__torch__ Module", "torch FloatStorage"},
    call=lambda text: text == "torch rebuild",
    make=lambda text: text == "__torch__ Module",
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, min_size=2, max_size=3)
    ),
    max_leaves=12,
)


def pickled(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


@given(PLAIN)
@settings(max_examples=100)
def test_plain_data_is_read_as_pickle_reads_it(value: Any) -> None:
    data = pickle.dumps(value, protocol=2)
    try:
        assert walk(data, ALLOWED).value == value
    except PickleError as error:
        # Python recalls an unfinished container and sets single items; torch does neither.
        assert "SETITEM," in str(error) or "not finished" in str(error)  # noqa: PT017


def test_names_calls_and_instances_stay_inert() -> None:
    found = walk(
        pickled(b"c__torch__\nModule\n", b")\x81", b"}", b"b"),
        ALLOWED,
    )
    assert isinstance(found.value, Instance)
    assert found.value.kind == Name("__torch__ Module")
    assert found.value.state == {}
    storage = b"(ctorch\nFloatStorage\nK\x02tQ"
    found = walk(pickled(b"ctorch\nrebuild\n", storage, b"\x85R"), ALLOWED)
    assert found.value == Call(
        Name("torch rebuild"), (Persistent((Name("torch FloatStorage"), 2)),)
    )
    assert found.calls == [found.value]
    assert len(found.persistent) == 1


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (pickled(b"cos\nsystem\n"), ForbiddenNameError, "os system"),
        (pickled(b"cbuiltins\neval\n"), ForbiddenNameError, "builtins eval"),
        (pickled(b"ctorch\nFloatStorage\n)R"), ForbiddenNameError, "calls 'torch FloatStorage'"),
        (pickled(b"ctorch\nrebuild\n)\x81"), ForbiddenNameError, "calls 'torch rebuild'"),
        (pickled(b"K\x01)R"), ForbiddenNameError, "no name"),
        (pickled(b"ctorch\nrebuild\n]R"), ForbiddenNameError, "no name"),
        (pickled(b"(S'x'\ni"), PickleError, "STRING"),
        (pickled(b"(cos\nsystem\no"), ForbiddenNameError, "os system"),
        (pickled(b"X\x02\0\0\0osX\x06\0\0\0system\x93"), PickleError, "STACK_GLOBAL"),
        (pickled(b"\x82\x01"), PickleError, "EXT1"),
        (pickled(b"P1\n"), PickleError, "PERSID"),
        (pickled(b"K\x010K\x02"), PickleError, "POP"),
        (pickled(b"G" + struct.pack(">d", float("nan"))), NonFiniteNumberError, "nan"),
        (pickled(b"G" + struct.pack(">d", float("-inf"))), NonFiniteNumberError, "inf"),
        (pickled(b"h\x05"), PickleError, "never kept"),
        (pickled(b"R"), PickleError, "more than it has"),
        (pickled(b"(R"), PickleError, "more than it has"),
        (pickled(b"t"), PickleError, "more than it has"),
        (pickled(b"(q\x00"), PickleError, "not there"),
        (pickled(b"]q\x00(h\x00e"), PickleError, "not finished"),
        (pickled(b"](K\x01e(K\x02e"), PickleError, "twice"),
        (pickled(b"K\x01(K\x01e"), PickleError, "no list"),
        (pickled(b"}(K\x01K\x01u"), PickleError, "no text"),
        (pickled(b"K\x01K\x02"), PickleError, "end"),
        (pickled(b"K\x01") + b"x", PickleError, "end"),
        (pickled(b"\x80\x02K\x01"), PickleError, "PROTO"),
        (pickled(b""), PickleError, "end"),
        (b"\x80\x04K\x01.", PickleError, "protocol 2"),
        (b"", PickleError, "no pickle"),
        (b"\x80\x02K", PickleError, "no pickle"),
        (b"\x80\x02\xff.", PickleError, "no pickle"),
        (pickled(b"X\xff\xff\xff\x7fabc"), PickleError, "no pickle"),
        (pickled(b")" + b"\x85" * (MAX_DEPTH + 1)), PickleError, "deeper"),
        (pickled(b"X\x01\x00\x01\x00" + b"x" * 65537), PickleError, "65537 characters"),
    ],
)
def test_what_torch_never_writes_is_refused(
    data: bytes, error: type[PickleError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        walk(data, ALLOWED)


def test_opcodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.pickle_walk.MAX_OPCODES", 10)
    with pytest.raises(PickleError, match="10 opcodes"):
        walk(pickled(b"(" + b"K\x01" * 20 + b"t"), ALLOWED)


class Payload:
    """Unpickling this would run a shell command."""

    def __init__(self, run: Callable[[str], int], command: str) -> None:
        self.run, self.command = run, command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return self.run, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_payload_is_never_run(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps(Payload(os.system, f"touch {marker}"), protocol=protocol)
    everything = AllowList(*[lambda _: protocol == 2] * 3)
    if protocol == 2:
        # Even where every name were allowed, a call stays a record.
        assert isinstance(walk(data, everything).value, Call)
    with pytest.raises(PickleError):
        walk(data, ALLOWED)
    assert not marker.exists()


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(PickleError):
        walk(b"\x80\x02" + data, ALLOWED)
