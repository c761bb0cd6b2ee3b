"""The strict archive reader, with the standard library's zipfile as oracle."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.zip_members import ArchiveError, read_members

NAMES = st.text(alphabet="abc/.0", min_size=1, max_size=8).filter(lambda n: not n.endswith("/"))


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return target.getvalue()


GOOD = archive({"a/data": b"weights" * 10, "a/version": b"3\n"})


@given(st.dictionaries(NAMES, st.binary(max_size=40), min_size=1, max_size=5))
def test_stored_archives_are_read_as_zipfile_reads_them(members: dict[str, bytes]) -> None:
    found = read_members(archive(members))
    assert {name: bytes(content) for name, content in found.items()} == members


@given(st.data())
@settings(max_examples=200)
def test_every_damage_is_refused_or_changes_nothing_that_is_loaded(data: st.DataObject) -> None:
    bad = bytearray(GOOD)
    at = data.draw(st.integers(0, len(bad) - 1))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = bytes(bad[: data.draw(st.integers(len(bad) - 30, len(bad)))])
    try:
        found = read_members(cut)
    except ArchiveError:
        return
    # Dates and versions are covered by nothing; names and contents are.
    with zipfile.ZipFile(io.BytesIO(cut)) as reader:
        for name, content in found.items():
            assert reader.read(name) == bytes(content)


@given(st.binary(max_size=120))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        read_members(b"PK\x03\x04" + data)


def twice() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as writer:
        writer.writestr("a/data", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            writer.writestr("a/data", b"two")
    return target.getvalue()


def with_comment() -> bytes:
    target = io.BytesIO(GOOD)
    with zipfile.ZipFile(target, "a") as writer:
        writer.comment = b"PK\x05\x06 look here"
    return target.getvalue()


def other_local_name() -> bytes:
    return GOOD.replace(b"a/data", b"a/evil", 1)


def overlapping() -> bytes:
    """Two directory entries share one member's bytes."""
    start = GOOD.index(b"PK\x01\x02")
    entry = GOOD[start : start + 46 + len("a/data")]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(entry), start, 0)
    return GOOD[:start] + entry + entry.replace(b"a/data", b"a/date") + end


def zip64_elsewhere() -> bytes:
    tail = len(GOOD) - 22
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 0, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    return GOOD[:tail] + record + locator + GOOD[tail:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "start with a member"),
        (b"PK\x03\x04", "cut off"),
        (b"#!/bin/sh\n" + GOOD, "start with a member"),
        (GOOD + b"x", "directory"),
        (archive({"a": b"x" * 100}, zipfile.ZIP_DEFLATED), "compressed"),
        (archive({"bomb": b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED), "compressed"),
        (archive({"a/ü": b"x"}), "not plain text"),
        (twice, "twice"),
        (with_comment, "no comment"),
        (other_local_name, "its own header"),
        (overlapping, "overlaps"),
        (zip64_elsewhere, "zip64"),
    ],
)
def test_ambiguous_archives_are_refused(data: object, reason: str) -> None:
    content = data() if callable(data) else data
    assert isinstance(content, bytes)
    with pytest.raises(ArchiveError, match=reason):
        read_members(content)


def test_the_number_of_members_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.zip_members.MAX_MEMBERS", 1)
    with pytest.raises(ArchiveError, match="2 members"):
        read_members(GOOD)
