"""What a file's first bytes say it is, so that one in disguise is refused by name."""

from __future__ import annotations

from export.bundle_errors import DisguisedFileError

_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x7fELF", "an executable"),
    (b"MZ", "an executable"),
    (b"#!", "a script"),
    (b"\x93NUMPY", "a NumPy array"),
)
_ZIP = "a zip archive"


def refuse_disguise(data: bytes, file_format: str, where: str) -> None:
    """Refuse a file whose first bytes are those of another kind of file.

    Args:
        data: the file's bytes.
        file_format: the format that the manifest states.
        where: the file's path, for errors.

    Raises:
        DisguisedFileError: it is of another kind, or a TorchScript Lite file is no zip archive.
    """
    if file_format == "safetensors" and data[8:9] == b"{":
        # It starts with the length of its header, and that number may look like anything.
        return
    kind = next((name for magic, name in _MAGIC if data.startswith(magic)), None)
    expected = _ZIP if file_format == "torchscript-lite" else None
    if kind != expected:
        raise DisguisedFileError(
            f"{where} is {kind or 'no zip archive'} and its manifest says {file_format}; "
            "do not open it, export again"
        )
