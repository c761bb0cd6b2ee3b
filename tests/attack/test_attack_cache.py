"""The cache gives back what was put, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attack.cache import TensorCache

CAUSE = {"kind": "test", "seed": 3, "list": [1, 2]}


@pytest.fixture
def stored(tmp_path: Path) -> tuple[TensorCache, Path]:
    cache = TensorCache(tmp_path)
    cache.put(CAUSE, {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.ones(2)}, {"k": 1})
    (path,) = tmp_path.rglob("*.safetensors")
    return cache, path


def test_what_was_put_is_found_by_its_cause_alone(stored: tuple[TensorCache, Path]) -> None:
    cache, _ = stored
    found = cache.get(dict(reversed(CAUSE.items())))
    assert found is not None
    tensors, meta = found
    assert np.array_equal(tensors["a"], np.arange(6).reshape(2, 3))
    assert tensors["a"].dtype == np.uint8
    assert np.array_equal(tensors["b"], np.ones(2))
    assert meta == {"k": 1}
    assert cache.get(CAUSE | {"seed": 4}) is None


def test_no_damage_is_ever_returned(stored: tuple[TensorCache, Path]) -> None:
    cache, path = stored
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        found = cache.get(CAUSE)
        # White space in the header may change without changing what it says.
        if found is not None:
            assert np.array_equal(found[0]["a"], np.arange(6).reshape(2, 3))
            assert np.array_equal(found[0]["b"], np.ones(2))
            assert found[1] == {"k": 1}
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert cache.get(CAUSE) is None


def test_a_damaged_entry_is_replaced(stored: tuple[TensorCache, Path]) -> None:
    cache, path = stored
    path.write_bytes(b"not safetensors")
    assert cache.get(CAUSE) is None
    cache.put(CAUSE, {"a": np.zeros(1)}, {})
    assert cache.get(CAUSE) is not None
