"""A number with its noun, as a sentence says it."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return ``1 epoch``, ``0 epochs``, ``4,000 epochs``; the plural must be formed with an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
