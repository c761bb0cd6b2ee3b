"""Tensors kept by the hash of what they were computed from; verified when read, whole or absent."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from records import files
from records.hashing import sha256_array, sha256_bytes, sha256_record

Tensors = dict[str, NDArray[Any]]

_CONTENT, _META = "content", "meta"


class TensorCache:
    """A folder of safetensors files named by the hash of their cause.

    An entry that is damaged, of another cause, or unreadable is treated as absent: what it held
    is computed again and replaces it.
    """

    def __init__(self, folder: Path) -> None:
        """Use ``folder``; it is made when the first entry is written."""
        self._folder = folder

    def get(self, cause: Any) -> tuple[Tensors, Any] | None:
        """Return the tensors and the builtin metadata stored for a cause, or None.

        Args:
            cause: anything that msgspec can encode and that decides the tensors completely.
        """
        path = self._path(cause)
        if not path.is_file():
            return None
        with contextlib.suppress(SafetensorError, OSError, msgspec.DecodeError):
            with safe_open(path, framework="np") as file:
                header = file.metadata() or {}
                tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            meta = header.get(_META, "")
            if header.get(_CONTENT) == _content(tensors, meta):
                return tensors, msgspec.json.decode(meta)
        return None

    def put(self, cause: Any, tensors: Tensors, meta: Any) -> None:
        """Store C-contiguous tensors and metadata for a cause, by atomic rename."""
        text = msgspec.json.encode(meta).decode()
        header = {_CONTENT: _content(tensors, text), _META: text}

        def write(partial: Path) -> None:
            save_file(tensors, partial, metadata=header)

        files.write_file(self._path(cause), write, replace=True)

    def _path(self, cause: Any) -> Path:
        key = sha256_record(cause)
        return self._folder / key[:2] / f"{key}.safetensors"


def _content(tensors: Tensors, meta: str) -> str:
    arrays = [np.asarray(tensors[name]) for name in sorted(tensors)]
    names = "\n".join(sorted(tensors))
    return sha256_bytes(f"{names}\n{sha256_array(*arrays)}\n{meta}".encode())
