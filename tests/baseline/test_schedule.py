from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baseline.schedule import one_cycle


@settings(deadline=None)
@given(
    steps=st.integers(1, 3000), peak=st.floats(1e-6, 1.0), share=st.floats(0.0, 1.0), data=st.data()
)
def test_the_rate_is_positive_and_never_above_the_peak(
    steps: int, peak: float, share: float, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < one_cycle(step, steps, peak, share) <= peak * (1 + 1e-12)


def test_up_then_down() -> None:
    rates = [one_cycle(step, 100, 2.0, 0.2) for step in range(100)]
    assert rates[0] == pytest.approx(2.0 / 25)
    assert rates[10] == pytest.approx((2.0 / 25 + 2.0) / 2)
    assert rates[20] == max(rates) == 2.0
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 2.0 / 500


def test_no_warm_up_starts_at_the_peak() -> None:
    assert one_cycle(0, 10, 0.5, 0.0) == 0.5
