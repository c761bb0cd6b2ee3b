"""A kit where it was unpacked: its files verified, its arrays read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from records.errors import BundleError

KIT = "kit.json"
MANIFEST = "bundle/manifest.json"


@dataclass(frozen=True)
class Contents:
    """A verified kit.

    Attributes:
        root: the folder.
        kit: `records.kit.KitRecord` as builtin values.
        manifest: the bundle's, as builtin values.
        sha256: of ``kit.json``, which names the hash of every other file.
    """

    root: Path
    kit: dict[str, Any]
    manifest: dict[str, Any]
    sha256: str

    @property
    def edges(self) -> list[dict[str, Any]]:
        """The edge artifacts in the manifest's order."""
        return [one for one in self.manifest["artifacts"] if one["role"] == "edge"]

    @property
    def wire(self) -> Any:
        """Scale, zero point and bits of the boundary, as attributes."""
        bits = self.manifest["wire"].get("bits", 8)
        return SimpleNamespace(**self.manifest["wire"], largest=(1 << bits) - 1)

    def artifact_bytes(self, artifact: dict[str, Any]) -> bytes:
        """Return an artifact's bytes, hashed again.

        Raises:
            BundleError: the file has changed since the kit was read.
        """
        return _read(self.root / "bundle" / artifact["file"], artifact["sha256"])

    def array(self, name: str) -> Any:
        """Return one of the kit's arrays, of the dtype and any shape that ``kit.json`` says.

        Raises:
            BundleError: the file has changed since the kit was read.
        """
        spec = self.kit["arrays"][name]
        data = _read(self.root / spec["file"], self.kit["files"][spec["file"]])
        return np.frombuffer(data, np.dtype(spec["dtype"])).reshape(spec["shape"])


def read_contents(root: Path) -> Contents:
    """Verify every file that ``kit.json`` names, and every artifact by the bundle's manifest.

    Args:
        root: the folder that holds ``kit.json``.

    Raises:
        BundleError: a file is missing or is not the one that the kit was made with.
    """
    try:
        data = (root / KIT).read_bytes()
        kit = json.loads(data)
    except (OSError, ValueError) as error:
        raise BundleError(f"{root / KIT} cannot be read; unpack the kit again") from error
    for name, sha256 in kit["files"].items():
        _read(root / name, sha256)
    manifest = json.loads((root / MANIFEST).read_bytes())
    for artifact in manifest["artifacts"]:
        _read(root / "bundle" / artifact["file"], artifact["sha256"])
    return Contents(root, kit, manifest, hashlib.sha256(data).hexdigest())


def _read(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read; unpack the kit again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{path} is not the file of this kit; unpack the kit again")
    return data
