"""A strict reader of uncompressed zip archives: one way to read them, and nothing to unpack.

Two readers of one archive may disagree (data before it, a comment, a directory that is found by
searching, local headers with other names than the directory's): what was scanned would then not
be what is loaded. Everything that leaves room for that is refused. So is compression, which
``export.torchscript`` never uses: an archive cannot be larger than its file. The format: PKWARE
APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end, zip64).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAX_MEMBERS = 20_000

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED = 0
#: Bit 3: sizes follow the data; bit 11: names are UTF-8. Encryption and patches are other bits.
_ALLOWED_FLAGS = 0x0808


class ArchiveError(ValueError):
    """The bytes are not a zip archive that every reader reads alike."""


@dataclass(frozen=True)
class _Entry:
    name: str
    crc: int
    size: int
    offset: int


def read_members(data: bytes) -> dict[str, memoryview]:
    """Return every member of an archive, its CRC verified.

    Args:
        data: the whole archive.

    Returns:
        Member name → bytes, in the archive's order; views, not copies.

    Raises:
        ArchiveError: malformed, ambiguous, encrypted, compressed, or a name given twice.
    """
    start, count, end = _directory(data)
    entries = _entries(data, start, count, end)
    members: dict[str, memoryview] = {}
    position = 0
    for entry in entries:
        if entry.name in members:
            raise ArchiveError(f"member {entry.name!r} is there twice")
        if entry.offset < position:
            raise ArchiveError(f"member {entry.name!r} overlaps the one before it")
        first = _data_start(data, entry)
        position = first + entry.size
        if position > start:
            raise ArchiveError(f"member {entry.name!r} goes beyond the members' end")
        content = memoryview(data)[first:position]
        if zlib.crc32(content) != entry.crc:
            raise ArchiveError(f"member {entry.name!r} has another CRC")
        members[entry.name] = content
    return members


def _directory(data: bytes) -> tuple[int, int, int]:
    """Return start, number of entries and end of the directory."""
    if not data.startswith(b"PK\x03\x04"):
        raise ArchiveError("it does not start with a member")
    tail = len(data) - _END.size
    if tail < 0:
        raise ArchiveError("it is cut off")
    signature, disk, first_disk, here, count, size, start, comment = _END.unpack_from(data, tail)
    if signature != b"PK\x05\x06" or comment:
        raise ArchiveError("it does not end with a directory and no comment")
    end = tail
    wide = _directory64(data, tail)
    if wide is not None:
        end, count64, size64, start64 = wide
        narrow = ((count, count64, 0xFFFF), (size, size64, 2**32 - 1), (start, start64, 2**32 - 1))
        if any(short not in (long, full) for short, long, full in narrow):
            raise ArchiveError("its two directory ends contradict each other")
        here = count = count64
        size, start = size64, start64
    if disk or first_disk or here != count or start + size != end or count > MAX_MEMBERS:
        raise ArchiveError(f"its directory of {count} members at {start} is not where it ends")
    return start, count, end


def _directory64(data: bytes, tail: int) -> tuple[int, int, int, int] | None:
    """Return end of the directory, count, size and start from the zip64 records, if there."""
    at = tail - _LOCATOR64.size
    if at < 0 or data[at : at + 4] != b"PK\x06\x07":
        return None
    _, disk, offset, disks = _LOCATOR64.unpack_from(data, at)
    if disk or disks != 1 or offset != at - _END64.size or offset < 0:
        raise ArchiveError("its zip64 locator points elsewhere")
    record = _END64.unpack_from(data, offset)
    signature, length, _, _, disk, first_disk, here, count, size, start = record
    if signature != b"PK\x06\x06" or length != _END64.size - 12:
        raise ArchiveError("its zip64 record is malformed")
    if disk or first_disk or here != count:
        raise ArchiveError("it spans several disks")
    return offset, count, size, start


def _entries(data: bytes, start: int, count: int, end: int) -> list[_Entry]:
    entries = []
    position = start
    for _ in range(count):
        if position + _ENTRY.size > end:
            raise ArchiveError("its directory is cut off")
        fields = _ENTRY.unpack_from(data, position)
        signature, _, _, flags, method, _, _, crc, packed, size = fields[:10]
        name_length, extra_length, comment_length, disk, _, _, offset = fields[10:]
        position += _ENTRY.size
        name = _name(data[position : position + name_length])
        position += name_length + extra_length
        if signature != b"PK\x01\x02" or comment_length or disk or position > end:
            raise ArchiveError("its directory is malformed")
        _check_member(name, flags, method, packed, size)
        entries.append(_Entry(name, crc, size, offset))
    if position != end:
        raise ArchiveError("its directory has more than its members")
    return entries


def _check_member(name: str, flags: int, method: int, packed: int, size: int) -> None:
    if flags & ~_ALLOWED_FLAGS:
        raise ArchiveError(f"member {name!r} is encrypted or of an unknown kind")
    if method != _STORED or packed != size:
        raise ArchiveError(f"member {name!r} is compressed, which no edge file is")


def _name(raw: bytes) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"a member's name {raw!r} is not plain text") from error


def _data_start(data: bytes, entry: _Entry) -> int:
    if entry.offset + _LOCAL.size > len(data):
        raise ArchiveError(f"member {entry.name!r} is beyond the end")
    fields = _LOCAL.unpack_from(data, entry.offset)
    signature, _, _, method, _, _, _, _, _, name_length, extra_length = fields
    first = entry.offset + _LOCAL.size
    name = data[first : first + name_length]
    if signature != b"PK\x03\x04" or method != _STORED or name != entry.name.encode():
        raise ArchiveError(f"member {entry.name!r} is another one in its own header")
    after: int = first + name_length + extra_length
    return after
