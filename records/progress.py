"""How a library function tells its caller how far it is, without printing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with a task's name, the steps done so far and the steps in all (≥ 1)."""

    def __call__(self, task: str, done: int, total: int) -> None:
        """Report one step; must be cheap and must not raise."""


def silent(task: str, done: int, total: int) -> None:
    """Report nothing: the default of every library function."""
