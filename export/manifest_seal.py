"""The seal of a manifest: ``bundle_id`` is the SHA-256 of everything else in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from records.hashing import sha256_record
from records.manifest import Manifest

_UNSEALED = "0" * 64


def bundle_id_of(manifest: Manifest | Mapping[str, Any]) -> str:
    """Return the hash that ``bundle_id`` must hold.

    It is taken over the canonical JSON (sorted keys, no white space) without the key
    ``bundle_id``. For a manifest read from a file pass the builtin JSON data, not the decoded
    record: the seals of older bundles then stay valid when a recipe key is added with a default.

    Args:
        manifest: the record, or its builtin JSON data.

    Returns:
        64 lower-case hexadecimal digits.
    """
    builtins = msgspec.to_builtins(manifest) if isinstance(manifest, Manifest) else manifest
    return sha256_record({key: value for key, value in builtins.items() if key != "bundle_id"})


def seal(**fields: Any) -> Manifest:
    """Make a manifest from every field but ``bundle_id``, which is computed.

    Args:
        fields: the fields of ``records.manifest.Manifest``.

    Returns:
        The sealed manifest.
    """
    unsealed = Manifest(bundle_id=_UNSEALED, **fields)
    return msgspec.structs.replace(unsealed, bundle_id=bundle_id_of(unsealed))
