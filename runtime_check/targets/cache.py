"""The cache of emulated targets: one folder a part, there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from records import codec
from records.errors import RecordError
from records.files import PARTIAL_SUFFIX, remove_partials

ENVIRONMENT = "EDGEVEIL_TARGETS"
_FACTS = "part.json"


class PartFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a part says of itself, written when it is complete; ``facts``: name → value."""

    part: str
    key: str
    facts: dict[str, str]


#: Fills the part's empty folder and returns its facts.
Build = Callable[[Path], dict[str, str]]


def cache_root(given: Path | None = None) -> Path:
    """Return the cache: ``given``, else $EDGEVEIL_TARGETS, else below the XDG cache folder."""
    if given is not None:
        return given.absolute()
    if os.environ.get(ENVIRONMENT):
        return Path(os.environ[ENVIRONMENT]).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "edgeveil" / "targets"


def part_folder(root: Path, part: str, key: str) -> Path:
    """Return where a part of that key is or would be; other keys never share a folder."""
    return root / f"{part}-{key[:12]}"


def part_facts(root: Path, part: str, key: str) -> dict[str, str] | None:
    """Return the facts of a part that is there whole, else None."""
    try:
        found = codec.read(part_folder(root, part, key) / _FACTS, PartFacts)
    except RecordError:
        return None
    return found.facts if (found.part, found.key) == (part, key) else None


def build_part(root: Path, part: str, key: str, build: Build) -> None:
    """Let ``build`` fill a folder beside the part's place, then rename it there.

    Args:
        root: the cache, locked by the caller.
        part: its name.
        key: the SHA-256 of all that decides its content.
        build: fills the folder.
    """
    target = part_folder(root, part, key)
    partial = Path(tempfile.mkdtemp(prefix=f".{part}.", suffix=PARTIAL_SUFFIX, dir=root))
    try:
        facts = build(partial)
        partial.chmod(0o755)
        codec.write(partial / _FACTS, PartFacts(part=part, key=key, facts=facts))
        # What stands there has no valid facts: it was damaged.
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the cache alone; wait for whoever has it, and clear what killed ones left."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_partials(root)
        yield
