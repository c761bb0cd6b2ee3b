"""The prepared emulated targets that the tests marked ``arm`` run on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime_check.targets.cache import cache_root
from runtime_check.targets.prepare import state

#: Set where the targets must be there, as in CI: a test that cannot run fails then.
REQUIRED = "EDGEVEIL_REQUIRE_TARGETS"


def prepared(name: str) -> Path:
    """Return the cache in which a target is whole, torch included; else skip, or fail in CI."""
    root = cache_root()
    lacking = [part for part in state(name, root).parts if not part.ready]
    if not lacking:
        return root
    reason = f"{name}: " + "; ".join(f"{part.part}: {part.detail}" for part in lacking)
    if os.environ.get(REQUIRED):
        pytest.fail(f"{REQUIRED} is set, and {reason}")
    pytest.skip(reason)
