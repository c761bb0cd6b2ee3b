"""From what ``--target`` says to a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from records.errors import InputError, UnsupportedHereError
from runtime_check.targets.cache import cache_root
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import EmulatedTarget
from runtime_check.targets.ssh import Ssh, is_ssh, parse_destination
from runtime_check.targets.ssh_target import SshTarget
from runtime_check.targets.target import Target

HOST = "host"
#: Victims that ``check`` and ``attack`` take on an emulated target when nothing is said.
EMULATED_VICTIMS = 200


@contextlib.contextmanager
def opened(
    name: str,
    cache: Path | None = None,
    *,
    ssh_config: Path | None = None,
    python: str | None = None,
) -> Iterator[Target | None]:
    """Yield a started target, or None for the host; end it when the block is left.

    Args:
        name: ``host``, the name of an emulated CPU, or ``ssh://[user@]host[:port]``.
        cache: of emulated targets; None takes `cache_root`'s.
        ssh_config: in place of the user's own.
        python: program of the device; None installs the pinned packages there for its python3.

    Raises:
        InputError: there is no such target.
        ConnectionLostError: no connection to the device.
        UnsupportedHereError: it cannot run here; the message says what would help.
    """
    if name == HOST:
        yield None
        return
    if is_ssh(name):
        ssh = Ssh(parse_destination(name), ssh_config)
        with SshTarget(name, ssh, python=python) as device:
            yield device
        return
    if name not in CPUS:
        raise InputError(
            f"--target {name!r} is none of {', '.join((HOST, *CPUS))}, ssh://[user@]host[:port]"
        )
    with EmulatedTarget(name, cache_root(cache)) as target:
        yield target


@contextlib.contextmanager
def opened_emulated(name: str, cache: Path | None = None) -> Iterator[Target]:
    """Yield a started target that counts instructions; end it when the block is left.

    Args:
        name: of an emulated CPU.
        cache: of emulated targets; None takes `cache_root`'s.

    Raises:
        InputError: there is no such target.
        ConnectionLostError: no connection to the device.
        UnsupportedHereError: it counts no instructions, or cannot run here.
    """
    with opened(name, cache) as target:
        if target is None or not target.emulated:
            raise UnsupportedHereError("instructions are counted on emulated targets only")
        yield target


def default_limit(target: Target | None) -> int | None:
    """Return how many victims are taken when nothing is said; None means all."""
    return EMULATED_VICTIMS if target is not None and target.emulated else None
