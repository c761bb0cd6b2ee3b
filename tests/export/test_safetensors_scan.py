"""The safetensors scan, with the safetensors library as oracle."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from export.bundle_errors import MalformedArtifactError, NonFiniteWeightsError
from export.safetensors_scan import scan_safetensors
from records.errors import BundleError

ARRAYS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias": np.array([1.5, -2.5]),
    "half": np.ones(3, dtype=np.float16),
    "int8": np.array([-128, 127], dtype=np.int8),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "scalar": np.array(7, dtype=np.int64),
}
GOOD = save(ARRAYS)


def built(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(
    dtype: str = "F32", shape: tuple[int, ...] = (1,), offsets: tuple[int, ...] = (0, 4)
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_the_library_writes_passes() -> None:
    scan_safetensors(GOOD, "good")
    scan_safetensors(save(ARRAYS, metadata={"format": "pt"}), "good")
    scan_safetensors(built({"a": entry()}, b"\0\0\0\0"), "by hand")


@given(st.data())
@settings(max_examples=200)
def test_what_passes_after_damage_is_readable_by_the_library(data: st.DataObject) -> None:
    bad = bytearray(GOOD)
    at = data.draw(st.integers(0, len(bad) - 1))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        scan_safetensors(bytes(bad), "bad")
    except BundleError:
        return
    for array in load(bytes(bad)).values():
        assert array.dtype.kind != "f" or np.isfinite(array).all()


@given(st.binary(max_size=100))
def test_random_headers_are_refused_with_the_library(text: bytes) -> None:
    try:
        scan_safetensors(built(text), "random")
    except MalformedArtifactError:
        return
    try:
        load(built(text))
    except SafetensorError as error:  # pragma: no cover - would be a finding
        pytest.fail(f"accepted what the library refuses: {error}")


@pytest.mark.parametrize("cut", [0, 7, 8, 20, len(GOOD) - 1])
def test_truncations_are_refused(cut: int) -> None:
    with pytest.raises(MalformedArtifactError):
        scan_safetensors(GOOD[:cut], "cut")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD + b"x", "after its tensors"),
        (struct.pack("<Q", 2**63) + b"{}", "claims a header"),
        (struct.pack("<Q", 17 << 20) + b"{" + b" " * (17 << 20), "claims a header"),
        (built(b"[]"), "not a JSON object"),
        (built(b" {}"), "not a JSON object"),
        (built(b"{" + b'"a":' * 3 + b"1}"), "malformed header"),
        (built(b'{"a":' * 100_000), "too deeply"),
        (
            built(
                b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
                b'"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}',
                b"\0\0\0\0",
            ),
            "same key twice",
        ),
        (built({"a": entry(shape=(1 << 39, 1 << 39))}), "bytes for tensor"),
        (built({"a": entry(shape=(2,))}, b"\0" * 4), "4 bytes for tensor"),
        (built({"a": entry(offsets=(4, 0))}, b"\0" * 4), "bytes for tensor"),
        (built({"a": entry(offsets=(0, 4, 8))}, b"\0" * 8), "malformed tensor"),
        (built({"a": entry(offsets=(-4, 0))}, b"\0" * 4), "malformed tensor"),
        (built({"a": entry(offsets=(4, 8))}, b"\0" * 8), "not at 0"),
        (built({"a": entry(), "b": entry()}, b"\0" * 4), "not at 4"),
        (built({"a": entry(), "b": entry(offsets=(8, 12))}, b"\0" * 12), "not at 4"),
        (built({"a": entry()}), "not at 0"),
        (built({"a": entry(dtype="PICKLE")}, b"\0" * 4), "malformed tensor"),
        (built({"a": {**entry(), "more": 1}}, b"\0" * 4), "malformed tensor"),
        (built({"a": {**entry(), "shape": [True]}}, b"\0" * 4), "malformed tensor"),
        (built({"a": entry(shape=(1,) * 9)}, b"\0" * 4), "malformed tensor"),
        (built({"__metadata__": {"a": 1}}), "metadata"),
        (built(b'{"a": NaN}'), "NaN"),
        (built(b'{"a": 1e999}'), "out of range"),
        (built(b'{"a": ' + b"9" * 5000 + b"}"), "malformed header"),
        (built(b'{"\xff": 1}'), "utf-8"),
    ],
)
def test_malformed_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedArtifactError, match=reason):
        scan_safetensors(data, "bad.safetensors")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(dtype: str, value: float) -> None:
    array = np.ones((2, 3), dtype=dtype)
    array[1, 1] = value
    with pytest.raises(NonFiniteWeightsError, match="'planted'"):
        scan_safetensors(save({"fine": np.ones(2), "planted": array}), "bad.safetensors")


@pytest.mark.parametrize(("bits", "finite"), [(0x7F80, False), (0xFFC0, False), (0x7F7F, True)])
def test_bfloat16_is_judged_by_its_exponent(bits: int, finite: bool) -> None:
    data = built({"a": entry("BF16", (1,), (0, 2))}, struct.pack("<H", bits))
    if finite:
        scan_safetensors(data, "bf16")
    else:
        with pytest.raises(NonFiniteWeightsError):
            scan_safetensors(data, "bf16")
