"""From what ``--target`` says to a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from records.errors import InputError
from runtime_check.targets.cache import cache_root
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import EmulatedTarget
from runtime_check.targets.target import Target

HOST = "host"
#: Victims that ``check`` and ``attack`` take on an emulated target when nothing is said.
EMULATED_VICTIMS = 200


@contextlib.contextmanager
def opened(name: str, cache: Path | None = None) -> Iterator[Target | None]:
    """Yield a started target, or None for the host; end it when the block is left.

    Args:
        name: ``host`` or the name of an emulated CPU.
        cache: of emulated targets; None takes `cache_root`'s.

    Raises:
        InputError: there is no such target.
        UnsupportedHereError: it cannot run here; the message says what would help.
    """
    if name == HOST:
        yield None
        return
    if name not in CPUS:
        raise InputError(f"--target {name!r} is none of {', '.join((HOST, *CPUS))}")
    with EmulatedTarget(name, cache_root(cache)) as target:
        yield target


def default_limit(target: Target | None) -> int | None:
    """Return how many victims are taken when nothing is said; None means all."""
    return EMULATED_VICTIMS if target is not None and target.emulated else None
