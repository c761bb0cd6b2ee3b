"""What ExecuTorch's packages say when they are imported, and nobody can act on."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

#: torchao registers an enum in a way that torch deprecates: known, pinned, and not ours to change.
_SAYS = "%s is an Enum subclass and is now natively supported"
_LOGGER = "torch.utils._pytree"


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Leave out torch's remark about torchao's enum and the warnings at import; errors pass."""
    log = logging.getLogger(_LOGGER)
    log.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            # executorch.runtime says at import that it is experimental.
            warnings.simplefilter("ignore")
            yield
    finally:
        log.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_SAYS)
