"""Numbers with their units, as people read them: dB to two decimals, 1 kB = 1000 bytes.

Every function takes None for "not in the record" and answers with a dash.
"""

from __future__ import annotations

import math

NONE = "–"


def number(value: float | None, digits: int, unit: str = "", *, signed: bool = False) -> str:
    """Return a number with a fixed count of decimals, a true minus sign and its unit.

    Args:
        value: any number; None and NaN become a dash, infinities become ∞.
        digits: decimals after the point.
        unit: appended after a no-break space when not empty.
        signed: write a plus sign before positive numbers.
    """
    if value is None or math.isnan(value):
        return NONE
    text = "∞" if math.isinf(value) else f"{abs(value):,.{digits}f}"
    # A value that rounds to zero has no sign: "−0.00 dB" would read as a loss.
    negative = value < 0 and any(c in "123456789∞" for c in text)
    sign = "−" if negative else "+" if signed and value > 0 else ""
    return sign + text + (f"\u00a0{unit}" if unit else "")


def small(value: float, digits: int, unit: str = "") -> str:
    """Return a number with fixed decimals, or with an exponent where those would show only zeros.

    Args:
        value: any number.
        digits: decimals after the point.
        unit: appended after a no-break space when not empty.
    """
    if value == 0 or math.isnan(value) or abs(value) >= 0.5 * 10**-digits:
        return number(value, digits, unit)
    mantissa, _, exponent = f"{abs(value):.1e}".partition("e")
    sign = "−" if value < 0 else ""
    power = str(int(exponent)).replace("-", "−")
    return f"{sign}{mantissa}e{power}" + (f"\u00a0{unit}" if unit else "")


def decibels(value: float | None, *, signed: bool = False) -> str:
    """Return dB to two decimals."""
    return number(value, 2, "dB", signed=signed)


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as per cent."""
    return number(None if share is None else 100 * share, digits, "%")


def at_least_percent(share: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as per cent, rounded down: 100 % only where nothing is missing."""
    if share is None:
        return NONE
    factor = 10**digits
    # A share such as 0.29 is stored a little below itself: the small step keeps 29.0 % from
    # becoming 28.9 %, and is far below one image or value of any set.
    floored = math.floor(100 * share * factor + 1e-9) / factor
    return number(floored, digits, "%")


def points(value: float | None, *, signed: bool = False) -> str:
    """Return percentage points to two decimals."""
    return number(value, 2, "points", signed=signed)


def size(count: int | None) -> str:
    """Return bytes as B, kB, MB or GB with three significant digits (1 kB = 1000 bytes)."""
    if count is None:
        return NONE
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        # 999,600 bytes are 1.00 MB, not 1,000 kB.
        if count >= step * 0.9995:
            value = count / step
            return number(value, 2 if value < 9.995 else 1 if value < 99.95 else 0, unit)
    return number(count, 0, "B")


def times(ratio: float | None) -> str:
    """Return a ratio as ``1.23×``."""
    text = number(ratio, 2)
    return text if text == NONE else f"{text}×"


def milliseconds(value: float | None) -> str:
    """Return milliseconds with three significant digits, at most three decimals."""
    if value is None:
        return NONE
    return number(value, 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0, "ms")


def seconds(value: float | None) -> str:
    """Return a duration in seconds as ms, s, or min and s."""
    if value is None or math.isnan(value):
        return NONE
    if value < 1:
        return milliseconds(value * 1000)
    if value < 90:
        return number(value, 1, "s")
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,}\u00a0min {rest}\u00a0s"


def count(value: int | None) -> str:
    """Return an integer with thousands separated by commas."""
    return number(value, 0)


def interval(low: str, high: str) -> str:
    """Return ``[low, high]`` of two texts that are already formatted, the unit written once."""
    low_number, _, low_unit = low.partition("\u00a0")
    high_number, _, high_unit = high.partition("\u00a0")
    if low_unit == high_unit:
        unit = f"\u00a0{low_unit}" if low_unit else ""
        return f"[{low_number}, {high_number}]{unit}"
    return f"[{low}, {high}]"


def short_hash(digest: str) -> str:
    """Return the first 12 digits of a hash, for a table; the record has it all."""
    return digest[:12]


def shape(dimensions: tuple[int, ...]) -> str:
    """Return a shape as ``24 × 32 × 32``."""
    return " × ".join(str(d) for d in dimensions)


def bit_width(bits: int) -> str:
    """Return a number of bits with its unit."""
    return "1 bit" if bits == 1 else f"{bits} bits"


def as_sentence(value: str) -> str:
    """Return a record's remark with a capital first letter and a full stop."""
    closed = value if value.endswith((".", "!", "?")) else f"{value}."
    return closed[:1].upper() + closed[1:]


def all_gates(gates: int) -> str:
    """Return who passed where every gate did."""
    return "The only gate" if gates == 1 else f"All {count(gates)} gates"
