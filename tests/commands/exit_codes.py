"""How a test calls the command line: through ``main``, which turns errors into exit codes."""

from __future__ import annotations

import sys

import pytest

import edgeveil


def exit_code_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run ``edgeveil`` with these arguments and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["edgeveil", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        edgeveil.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code
