"""The call of the kernels among others: which one is chosen, and when none may be."""

from __future__ import annotations

import pytest

from benchmarks.kernel_calls import kernel_calls, require_two_operators
from records.errors import UnsupportedHereError
from runtime_check.targets.call_trace import Call, TracedRun

CONV, CLIP, CONV_FLOAT = 0xC0, 0xC1, 0xC2
OPERATORS = ("Conv", "Clip", "Conv", "Conv")
#: The second type of an operator has a function of its own.
KERNELS = (Call(CONV, 10, 20), Call(CLIP, 30, 35), Call(CONV, 40, 60), Call(CONV_FLOAT, 70, 80))


def wrapped(calls: tuple[Call, ...], target: int | None, by: int) -> tuple[Call, ...]:
    """Return calls that begin earlier and end later, or inside; None keeps the targets."""
    return tuple(Call(target or c.target, c.before - by, c.after + by) for c in calls)


def run(**sites: tuple[Call, ...]) -> TracedRun:
    return TracedRun(0, 100, dict(enumerate(sites.values())))


def test_the_call_that_leads_to_functions_by_operator_is_chosen() -> None:
    step, is_async = wrapped(KERNELS, 0xAA, 2), wrapped(KERNELS, 0xBB, -1)
    one = run(step=step, kernels=KERNELS, is_async=is_async)
    assert kernel_calls([one, one], OPERATORS) == (KERNELS, KERNELS)


def test_of_nested_calls_the_outermost_is_chosen() -> None:
    one = run(inner=wrapped(KERNELS, None, -1), kernels=KERNELS)
    assert kernel_calls([one], OPERATORS) == (KERNELS,)


def test_fused_operators_share_a_function() -> None:
    operators = ("Conv", "Clip", "com.microsoft.FusedConv", "Conv")
    assert kernel_calls([run(kernels=KERNELS)], operators) == (KERNELS,)


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(KERNELS[:3], id="one call too few"),
        pytest.param(wrapped(KERNELS, 0xAA, 0), id="one function for all"),
        pytest.param((KERNELS[1], *KERNELS[1:]), id="a function that serves two operators"),
        pytest.param((Call(CONV, 10, 31), *KERNELS[1:]), id="a call inside another"),
    ],
)
def test_no_other_call_is_taken_for_it(calls: tuple[Call, ...]) -> None:
    for runs in ([run(calls=calls)], [run(calls=KERNELS), run(calls=calls)], [run()]):
        with pytest.raises(UnsupportedHereError, match="once for each of the 4 nodes"):
            kernel_calls(runs, OPERATORS)


def test_calls_that_disagree_are_refused() -> None:
    later = tuple(Call(c.target, c.before + 1, c.after + 1) for c in KERNELS)
    with pytest.raises(UnsupportedHereError, match="2 calls of the runtime could be"):
        kernel_calls([run(kernels=KERNELS, later=later)], OPERATORS)
    wider, narrower = run(a=KERNELS, b=wrapped(KERNELS, None, 1)), wrapped(KERNELS, None, -1)
    with pytest.raises(UnsupportedHereError, match="disagree"):
        kernel_calls([wider, run(a=KERNELS, b=narrower)], OPERATORS)


@pytest.mark.parametrize(
    "operators", [(), ("Conv",), ("Conv", "Conv"), ("Conv", "com.microsoft.FusedConv")]
)
def test_one_operator_tells_nothing(operators: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedHereError, match="no two operators"):
        require_two_operators(operators)
    require_two_operators((*operators, "Clip", "Conv"))
