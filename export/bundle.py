"""A bundle is untrusted input: everything is verified before any runtime sees a byte of it.

What is verified proves that the bundle is whole, consistent and harmless to load; it does not
prove who made it. A bundle that somebody resealed with other valid weights is another bundle, not
a corrupted one: that would need a signature. Nor does it bound what an artifact costs to run: a
valid network can still be a slow one.

Between verifying and loading by path a file could be exchanged by whoever may write to the folder.
A runtime that accepts bytes should therefore load ``Bundle.read(artifact)``, which hashes again the
very bytes that it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from export.bundle_errors import ManifestError, SealError
from export.bundle_files import read_listed_file, read_plain_file, refuse_other_entries
from export.file_kind import refuse_disguise
from export.json_graph_scan import scan_json_graph
from export.lite_scan import scan_lite
from export.manifest_rules import check_manifest
from export.manifest_seal import bundle_id_of, seal
from export.onnx_scan import scan_onnx
from export.ort_scan import scan_ort
from export.pte_scan import scan_pte
from export.safetensors_scan import scan_safetensors
from export.tflite_scan import scan_tflite
from records import codec
from records.errors import BundleError, RecordError
from records.manifest import MANIFEST_NAME, Artifact, Manifest, Precision

__all__ = ["Bundle", "bundle_id_of", "load_bundle", "seal"]

#: A manifest of a hundred layers has about 30 kB.
MAX_MANIFEST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A verified folder of artifacts; made by ``load_bundle`` only."""

    folder: Path
    manifest: Manifest

    def path(self, artifact: Artifact) -> Path:
        """Return the path of an artifact's file."""
        return self.folder / artifact.file

    def artifact(self, name: str) -> Artifact:
        """Return the artifact of that name.

        Raises:
            BundleError: the bundle has none of that name.
        """
        for artifact in self.manifest.artifacts:
            if artifact.name == name:
                return artifact
        names = ", ".join(a.name for a in self.manifest.artifacts)
        raise BundleError(f"{self.folder} has no artifact {name!r}; it has {names}")

    def edges(self, precision: Precision | None = None) -> tuple[Artifact, ...]:
        """Return the edge artifacts, all or those of one precision, in the manifest's order."""
        return tuple(
            artifact
            for artifact in self.manifest.artifacts
            if artifact.role == "edge" and precision in (None, artifact.precision)
        )

    def read(self, artifact: Artifact) -> bytes:
        """Return an artifact's bytes, hashed again: load these rather than the path.

        Raises:
            BundleError: the file is no longer the one that was verified.
        """
        return read_listed_file(self.path(artifact), artifact)


def load_bundle(folder: Path) -> Bundle:
    """Verify a bundle whole and return it; nothing in it is executed, imported or unpickled.

    Args:
        folder: the bundle's folder.

    Returns:
        The verified bundle.

    Raises:
        BundleError: one of the named errors of ``export.bundle_errors``, with the file, what is
            wrong with it and what to do.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that holds {MANIFEST_NAME}")
    manifest = _read_manifest(folder / MANIFEST_NAME)
    check_manifest(manifest)
    refuse_other_entries(folder, [MANIFEST_NAME, *(a.file for a in manifest.artifacts)])
    for artifact in manifest.artifacts:
        path = folder / artifact.file
        _scan(read_listed_file(path, artifact), artifact, manifest, str(path))
    return Bundle(folder=folder, manifest=manifest)


def _scan(data: bytes, artifact: Artifact, manifest: Manifest, where: str) -> None:
    refuse_disguise(data, artifact.format, where)
    if artifact.format == "onnx":
        scan_onnx(data, artifact, manifest.wire, where)
    elif artifact.format == "torchscript-lite":
        scan_lite(data, artifact, where)
    elif artifact.format == "ort":
        scan_ort(data, artifact, where)
    elif artifact.format == "executorch":
        scan_pte(data, artifact, where)
    elif artifact.format == "litert":
        scan_tflite(data, artifact, manifest.wire, where)
    elif artifact.format == "safetensors":
        scan_safetensors(data, where)
    else:
        scan_json_graph(data, where)


def _read_manifest(path: Path) -> Manifest:
    if not path.exists():
        raise ManifestError(f"{path} is missing; give the folder of a bundle")
    data = read_plain_file(path, MAX_MANIFEST_BYTES)
    try:
        manifest = codec.decode(data, Manifest, str(path))
        plain: dict[str, Any] = msgspec.json.decode(data)
        canonical = codec.encode(plain)
    except (RecordError, msgspec.MsgspecError, RecursionError) as error:
        raise ManifestError(f"{error}; copy it again or export again") from error
    # Duplicate keys, other spellings of a number and foreign white space all end here.
    if data != canonical:
        raise ManifestError(
            f"{path} is not in the canonical form that edgeveil writes (sorted unique keys, "
            "two spaces); copy it again or export again"
        )
    if bundle_id_of(plain) != manifest.bundle_id:
        raise SealError(
            f"{path} is not the manifest that its bundle_id {manifest.bundle_id[:16]}… seals; "
            "it was edited, copy it again or export again"
        )
    return manifest
