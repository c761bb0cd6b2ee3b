"""The verdicts on a kit's check: every limit met and missed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from benchmarks.device.verdicts import check_verdicts, share_within
from records.kit import KitLimits

LITE = KitLimits(max_lsb=0, max_lsb_from_host=0)
ONNX = KitLimits(share_within_1_lsb=0.99)
LITERT = KitLimits(share_within_1_lsb=0.99, share_within_2_lsb=0.999)
BITS = KitLimits(share_within_1_lsb=0.99, share_identical=0.5)
FP32 = KitLimits(parity_sqnr_db=80.0)

Row = dict[str, Any]


def row(eager: list[int], host: list[int] | None = None, **fields: Any) -> Row:
    return {"artifact": "a", "from_eager": eager, "from_host": host, "off_grid": 0} | fields


def missed(limits: KitLimits, one: Row, *, same_input: bool = True) -> list[str]:
    kit = {"limits": {"a": msgspec.to_builtins(limits)}}
    record = {"preprocessing_identical": same_input, "rows": [one]}
    return [verdict.name for verdict in check_verdicts(kit, record) if not verdict.passed]


@pytest.mark.parametrize(
    ("limits", "good", "bad", "name"),
    [
        (LITE, row([100], [100]), row([99, 1], [100]), "max_lsb"),
        (LITE, row([100], [100]), row([100], [99, 1]), "max_lsb_from_host"),
        (LITE, row([100], None), row([100], [100], off_grid=1), "off_grid"),
        (ONNX, row([0, 99, 1], [50, 50]), row([0, 98, 2]), "share_within_1_lsb"),
        (LITERT, row([990, 9, 1]), row([0, 1000 - 12, 10, 2]), "share_within_2_lsb"),
        (BITS, row([50, 50]), row([49, 51]), "share_identical"),
        (
            FP32,
            {"artifact": "a", "signal": 1e8, "noise": 1.0},
            {"artifact": "a", "signal": 9e7, "noise": 1.0},
            "parity_sqnr_db",
        ),
        (
            FP32,
            {"artifact": "a", "signal": 1.0, "noise": 0.0},
            {"artifact": "a", "signal": 0.0, "noise": 1.0},
            "parity_sqnr_db",
        ),
        (ONNX, row([1]), {"artifact": "a", "failure": "it broke"}, "runs"),
    ],
)
def test_every_limit(limits: KitLimits, good: Row, bad: Row, name: str) -> None:
    assert missed(limits, good) == []
    assert name in missed(limits, bad)


def test_an_input_that_differs_fails() -> None:
    assert missed(ONNX, row([1]), same_input=False) == ["preprocessing_differs"]


def test_shares() -> None:
    assert share_within([1, 2, 1], 0) == 0.25
    assert share_within([1, 2, 1], 1) == 0.75
    assert share_within([], 1) == 0.0
