from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from records import codec
from records.errors import OverwriteError, RecordError
from records.manifest import SetRecord
from records.run import StageRecord

STAGE = StageRecord(
    stage="train",
    key="0" * 64,
    outputs={"a": "1" * 64},
    gates_passed=True,
    started_at="2026-01-01T00:00:00+00:00",
    seconds=1.5,
)


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "stage.json"
    codec.write(path, STAGE)
    assert codec.read(path, StageRecord) == STAGE
    with pytest.raises(OverwriteError):
        codec.write(path, STAGE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"count": 1}',
        '{"count": -1, "sha256": "' + "0" * 64 + '"}',
        '{"count": 1, "sha256": "xyz"}',
        '{"count": 1, "sha256": "' + "0" * 64 + '", "extra": 1}',
        '{"count": NaN, "sha256": "' + "0" * 64 + '"}',
        "[" * 100_000,
        "\x00",
    ],
)
def test_what_is_not_the_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"set\.json is not a valid SetRecord"):
        codec.read(path, SetRecord)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere\.json cannot be read"):
        codec.read(tmp_path / "nowhere.json", SetRecord)


def test_timings_are_dropped_at_any_depth() -> None:
    plain = codec.without_timings({"a": [{"seconds": 1, "b": 2}], "timing": {}, "stage": STAGE})
    assert plain == {
        "a": [{"b": 2}],
        "stage": {
            "stage": "train",
            "key": "0" * 64,
            "outputs": {"a": "1" * 64},
            "gates_passed": True,
        },
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_encoding_is_canonical(value: object) -> None:
    encoded = codec.encode(value)
    assert encoded.endswith(b"\n")
    assert msgspec.json.decode(encoded) == value
    assert codec.encode(msgspec.json.decode(encoded)) == encoded


def test_no_record_holds_a_nan() -> None:
    # msgspec writes NaN as null, and null is refused where a number is asked for.
    assert msgspec.json.decode(codec.encode({"x": math.nan})) == {"x": None}
