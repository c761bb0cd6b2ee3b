"""Options that take words separated by commas, and refuse a word that there is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

Callback = Callable[[click.Context, click.Parameter, str | None], list[str] | None]


def listed_of(choices: Sequence[str], noun: str) -> Callback:
    """Return a click callback that splits a list at its commas and knows all its words.

    Args:
        choices: the words that there are.
        noun: what they are, in the plural.
    """

    def listed(
        context: click.Context, option: click.Parameter, text: str | None
    ) -> list[str] | None:
        words = None if text is None else [part.strip() for part in text.split(",")]
        unknown = [word for word in words or () if word not in choices]
        if unknown:
            named = ", ".join(word or "(nothing)" for word in unknown)
            raise click.BadParameter(f"{named}: {noun} are {', '.join(choices)}")
        return words

    return listed
