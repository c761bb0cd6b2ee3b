"""The counters of ``counter.c``: parse its lines, and take the difference of two marks."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from records.errors import ArtifactError

#: In the order of counter.c.
CLASSES = ("all", "simd_fp", "dot", "mmla", "widening_multiply", "fmla")
_NUMBER = r"=(\d{1,20})"
_LINE = re.compile(r"mark (\d{1,20}) " + " ".join(name + _NUMBER for name in CLASSES))


@dataclass(frozen=True)
class Mark:
    """The counters at one mark: ``number`` as the guest gave it, ``counts`` by class."""

    number: int
    counts: dict[str, int]


def parse_marks(text: str) -> tuple[Mark, ...]:
    """Return the marks of a counter file, in order.

    Args:
        text: the whole file, one line a mark.

    Raises:
        ArtifactError: a line is not the plugin's.
    """
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            raise ArtifactError(f"the instruction counter wrote {line[:80]!r}, which is no mark")
        number, *counts = (int(group) for group in match.groups())
        found.append(Mark(number, dict(zip(CLASSES, counts, strict=True))))
    return tuple(found)


def differences(marks: Sequence[Mark], first: int, count: int) -> tuple[dict[str, int], ...]:
    """Return the instructions between the marks ``first`` … ``first + count``, by class.

    Args:
        marks: of one guest process.
        first: number of the mark before the first inference.
        count: inferences, each followed by the next number.

    Raises:
        ArtifactError: a mark is missing or came twice, or a counter ran backwards.
    """
    wanted = range(first, first + count + 1)
    chosen = [mark for mark in marks if mark.number in wanted]
    if [mark.number for mark in chosen] != list(wanted):
        raise ArtifactError(
            f"the instruction counter has marks {[m.number for m in chosen]}, not {first} to "
            f"{first + count}; was the guest cut off?"
        )
    found = tuple(
        {name: after.counts[name] - before.counts[name] for name in CLASSES}
        for before, after in itertools.pairwise(chosen)
    )
    if any(value < 0 for one in found for value in one.values()):
        raise ArtifactError("an instruction counter ran backwards; it was disturbed")
    return found


def median_counts(inferences: Sequence[dict[str, int]]) -> dict[str, int]:
    """Return the lower median of each class over inferences; one that was disturbed drops out."""
    return {name: statistics.median_low([one[name] for one in inferences]) for name in CLASSES}
