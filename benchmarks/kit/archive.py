"""A tar.gz that depends on its content alone: sorted names, no times, no owners."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping


def archive(folder: str, files: Mapping[str, bytes], executable: frozenset[str]) -> bytes:
    """Return the bytes of an archive; the same content gives the same bytes (of one zlib).

    Args:
        folder: the one folder at its root.
        files: path below ``folder`` → content.
        executable: paths that are programs.
    """
    raw = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(files[name])
            entry.mode = 0o755 if name in executable else 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return raw.getvalue()
