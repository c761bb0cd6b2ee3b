"""What native code writes to stderr while it loads: known remarks are left out, all else is shown.

Native libraries write to the file descriptor itself, where Python's warnings and logs have no say.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_STDERR = 2


@contextlib.contextmanager
def without_remarks(known: re.Pattern[bytes]) -> Iterator[None]:
    """Hold back what is written to stderr, and show it after the block but for the known lines.

    Where the block raises, every line is shown. For short native calls only: nothing appears
    before the block ends, and nothing at all where the process is killed in it.

    Args:
        known: matches, from its start, a line that says nothing to a user.
    """
    try:
        shown = os.dup(_STDERR)
    except OSError:  # Closed: there is nothing to hold back.
        yield
        return
    with tempfile.TemporaryFile() as held:
        _flush()
        os.dup2(held.fileno(), _STDERR)
        raised = True
        try:
            yield
            raised = False
        finally:
            _flush()
            os.dup2(shown, _STDERR)
            os.close(shown)
            held.seek(0)
            for line in held:
                if raised or not known.match(line):
                    os.write(_STDERR, line)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
