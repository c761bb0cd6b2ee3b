"""What ``call_trace.c`` wrote: the indirect calls between two marks, by the site that made them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from records.errors import ArtifactError

_MARK = re.compile(r"mark (\d{1,20}) (\d{1,20})")
_CALL = re.compile(r"call ([0-9a-f]{1,16}) ([0-9a-f]{1,16}) (\d{1,20}) (\d{1,20})")


@dataclass(frozen=True)
class Call:
    """One call through a register that returned.

    Attributes:
        target: address of what was called.
        before: instructions since the program began, the call's own included.
        after: the same when it had returned.
    """

    target: int
    before: int
    after: int

    @property
    def instructions(self) -> int:
        """Instructions of what was called and of all that it called, returns included."""
        return self.after - self.before


@dataclass(frozen=True)
class TracedRun:
    """What lies between two marks.

    ``begin``, ``end``: instructions since the program began, at the marks. ``sites``: address of
    the calling instruction → its calls in order; of the sites with the asked number of calls only.
    """

    begin: int
    end: int
    sites: dict[int, tuple[Call, ...]]

    @property
    def instructions(self) -> int:
        """All instructions between the marks."""
        return self.end - self.begin


def parse_trace(text: str, first: int, count: int) -> tuple[TracedRun, ...]:
    """Return the runs between the marks ``first`` … ``first + count`` of a trace.

    Args:
        text: the whole file.
        first: number of the mark before the first run.
        count: runs, each followed by the next number.

    Raises:
        ArtifactError: a line is not the plugin's, or a mark is missing, or a count runs backwards.
    """
    runs: list[TracedRun] = []
    marks: list[int] = []
    begin, calls = 0, dict[int, list[Call]]()
    for line in text.splitlines():
        if call := _CALL.fullmatch(line):
            site, target = (int(call[k], 16) for k in (1, 2))
            calls.setdefault(site, []).append(Call(target, int(call[3]), int(call[4])))
        elif mark := _MARK.fullmatch(line):
            sites = {site: tuple(made) for site, made in calls.items()}
            runs.append(_ordered(TracedRun(begin, int(mark[2]), sites)))
            marks.append(int(mark[1]))
            begin, calls = int(mark[2]), {}
        else:
            raise ArtifactError(f"the trace of calls has {line[:80]!r}, which is no line of it")
    if marks != list(range(first, first + count + 1)):
        raise ArtifactError(
            f"the trace of calls has marks {marks}, not {first} to {first + count}; was the guest "
            "cut off?"
        )
    return tuple(runs[1:])


def _ordered(run: TracedRun) -> TracedRun:
    for made in run.sites.values():
        clock = run.begin
        for call in made:
            if not clock <= call.before <= call.after <= run.end:
                raise ArtifactError("the trace of calls runs backwards; it was disturbed")
            clock = call.before
    return run
