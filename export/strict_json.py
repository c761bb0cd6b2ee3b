"""JSON that every reader reads alike: no duplicate keys, no NaN, no numbers out of range."""

from __future__ import annotations

import json
import math
from typing import Any


class JsonError(ValueError):
    """The text is not JSON in the strict sense of this module."""


def parse_json(data: bytes) -> Any:
    """Parse JSON text in UTF-8.

    Args:
        data: the whole text.

    Returns:
        Builtin data; every float is finite.

    Raises:
        JsonError: not UTF-8, not JSON, nested too deeply, a key twice in one object, or a number
            that is NaN, infinite or beyond a float64.
    """
    try:
        return json.loads(
            str(data, "utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
        )
    except RecursionError as error:
        raise JsonError("it nests too deeply") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise JsonError(str(error)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonError("an object has the same key twice")
    return found


def _constant(text: str) -> Any:
    raise JsonError(f"{text} is not a number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"the number {text[:30]} is out of range")
    return value
