from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1536, "1.54 kB"),
        (99_950, "100 kB"),
        (999_600, "1.00 MB"),
        (1_600_000, "1.60 MB"),
        (6_530_000, "6.53 MB"),
        (25_277_000_000, "25.3 GB"),
        (None, units.NONE),
    ],
)
def test_sizes_are_decimal_with_three_digits(count: int | None, text: str) -> None:
    assert units.size(count).replace("\u00a0", " ") == text


@given(st.integers(min_value=0, max_value=1 << 40))
def test_a_size_reads_back_within_its_precision(count: int) -> None:
    value, _, unit = units.size(count).partition("\u00a0")
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}[unit]
    assert float(value.replace(",", "")) * factor == pytest.approx(count, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.10 dB"),
        (-3.456, "−3.46 dB"),
        (-0.001, "0.00 dB"),
        (math.inf, "∞ dB"),
        (-math.inf, "−∞ dB"),
        (math.nan, units.NONE),
        (None, units.NONE),
    ],
)
def test_decibels_have_two_decimals_and_no_negative_zero(value: float | None, text: str) -> None:
    assert units.decibels(value).replace("\u00a0", " ") == text


def test_a_sign_is_written_when_asked_for() -> None:
    assert units.number(1.25, 1, signed=True) == "+1.2"
    assert units.number(0.0, 1, signed=True) == "0.0"


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        ("1.00\u00a0dB", "2.00\u00a0dB", "[1.00, 2.00]\u00a0dB"),
        ("1", "2", "[1, 2]"),
        ("1\u00a0kB", "2\u00a0MB", "[1\u00a0kB, 2\u00a0MB]"),
    ],
)
def test_an_interval_names_a_common_unit_once(low: str, high: str, text: str) -> None:
    assert units.interval(low, high) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "500 ms"), (31.4, "31.4 s"), (143.2, "2 min 23 s"), (None, units.NONE)],
)
def test_durations(value: float | None, text: str) -> None:
    assert units.seconds(value).replace("\u00a0", " ") == text


def test_shares_and_shapes() -> None:
    assert units.percent(0.1234, 2) == "12.34\u00a0%"
    assert units.percent(None) == units.NONE
    assert units.times(3.754) == "3.75×"
    assert units.shape((24, 8, 8)) == "24 × 8 × 8"
    assert units.short_hash("a" * 64) == "a" * 12


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100.0 %"), (0.99996, "99.9 %"), (0.29, "29.0 %"), (0.0, "0.0 %"), (None, "–")],
)
def test_a_share_is_never_rounded_up_to_all(share: float | None, text: str) -> None:
    assert units.at_least_percent(share).replace("\u00a0", " ") == text


@given(st.integers(min_value=0, max_value=10**7), st.integers(min_value=1, max_value=10**7))
def test_a_share_rounded_down_is_below_by_less_than_its_last_digit(part: int, rest: int) -> None:
    share = part / (part + rest)
    shown = float(units.at_least_percent(share, 3).removesuffix("\u00a0%"))
    assert shown <= 100 * share + 1e-9
    assert shown > 100 * share - 0.0011
    assert shown < 100


def test_remarks_become_sentences() -> None:
    assert units.as_sentence("measured on x86") == "Measured on x86."
    assert units.as_sentence("Done.") == "Done."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 dB"),
        (1e-6, "1.0e−6 dB"),
        (-2e-4, "−2.0e−4 dB"),
        (0.006, "0.01 dB"),
        (3, "3.00 dB"),
    ],
)
def test_a_tiny_limit_is_not_shown_as_zero(value: float, text: str) -> None:
    assert units.small(value, 2, "dB").replace("\u00a0", " ") == text
