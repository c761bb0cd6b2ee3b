from __future__ import annotations

import pytest

from records.counted import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (4000, "4,000 epochs")]
)
def test_a_number_and_its_noun_agree(number: int, said: str) -> None:
    assert counted(number, "epoch") == said
