from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from records.hashing import sha256_array, sha256_bytes, sha256_file, sha256_record


@given(st.binary(max_size=2000))
def test_bytes_against_hashlib(data: bytes) -> None:
    assert sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_a_file_hashes_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"edge" * 100_000)
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5)))
def test_an_array_hashes_by_value_not_by_layout(array: np.ndarray) -> None:
    assert sha256_array(array) == sha256_array(np.asfortranarray(array))
    assert sha256_array(array) != sha256_array(array[None])
    assert sha256_array(array) != sha256_array(array.astype(np.float64))


def test_arrays_do_not_run_into_each_other() -> None:
    a = np.arange(4, dtype=np.uint8)
    assert sha256_array(a[:2], a[2:]) != sha256_array(a[:3], a[3:])


def test_a_record_hashes_by_content_not_by_order() -> None:
    assert sha256_record({"a": 1, "b": [2]}) == sha256_record({"b": [2], "a": 1})
    assert sha256_record({"a": 1}) != sha256_record({"a": 1.5})
