"""From what ``--target`` says to a target."""

from __future__ import annotations

from pathlib import Path

from records.errors import InputError
from runtime_check.targets.cache import cache_root
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import EmulatedTarget
from runtime_check.targets.target import Target

HOST = "host"
#: Victims that ``check`` and ``attack`` take on an emulated target when nothing is said.
EMULATED_VICTIMS = 200


def open_target(name: str, cache: Path | None = None) -> Target | None:
    """Return a started target, or None for the host.

    Args:
        name: ``host`` or the name of an emulated CPU.
        cache: of emulated targets; None takes `cache_root`'s.

    Raises:
        InputError: there is no such target.
        UnsupportedHereError: it cannot run here; the message says what would help.
    """
    if name == HOST:
        return None
    if name not in CPUS:
        raise InputError(f"--target {name!r} is none of {', '.join((HOST, *CPUS))}")
    return EmulatedTarget(name, cache_root(cache))
