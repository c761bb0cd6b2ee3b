"""Compacted files hold every value of what torch saved, in fewer bytes."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.jit.mobile import _load_for_lite_interpreter

from export.lite_compact import compact
from export.pickle_walk import AllowList, Call, Instance, walk
from export.quantize import qnnpack_engine
from records.errors import ExportError
from tests.export.edges import batch, quantized, split
from tests.export.lite_files import taken_apart

EVERYTHING = AllowList(*[lambda _: True] * 3)
DTYPES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch LongStorage": "<i8",
    "torch ShortStorage": "<i2",
    "torch QInt8Storage": "i1",
}


def saved(module: nn.Module) -> bytes:
    """What torch itself writes for the Lite interpreter."""
    with warnings.catch_warnings(), qnnpack_engine():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(module.eval()))
        data: bytes = frozen._save_to_buffer_for_lite_interpreter()
    return data


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}


def unfolded(value: Any, files: dict[str, bytes]) -> Any:
    """A walked value with every tensor as (numbers, the rest of it), wherever they are stored."""
    if isinstance(value, tuple | list):
        return [unfolded(part, files) for part in value]
    if isinstance(value, Instance):
        return [value.kind.text.rpartition("_")[2], unfolded(value.state, files)]
    if not isinstance(value, Call):
        return value
    if "rebuild" not in value.function.text:
        return [value.function.text, unfolded(value.arguments, files)]
    storage, start, shape, strides, *rest = value.arguments
    dtype = np.dtype(DTYPES[storage.key[1].text])
    stored = np.frombuffer(files[f"constants/{storage.key[2]}"], dtype)
    assert len(stored) == storage.key[4]
    inner = [dtype.itemsize * step for step in strides]
    view = np.lib.stride_tricks.as_strided(stored[start:], shape, inner)
    return [view.astype(float).tolist(), *unfolded(rest, files)]


@pytest.mark.parametrize("kind", ["fp32", "int8", "wire"])
def test_every_number_is_where_the_program_reads_it(kind: str) -> None:
    edge = quantized("tiny", "pool")
    modules = {"fp32": split("tiny", "pool").edge, "int8": edge.float_boundary, "wire": edge.wire}
    before = saved(modules[kind])
    after = compact(before)
    old, new = members(before), taken_apart(after)
    tables = [walk(files["bytecode.pkl"], EVERYTHING).value for files in (old, new)]
    bodies = [dict(table[1][1]) for table in tables]
    assert bodies[0]["instructions"] == bodies[1]["instructions"]
    constants = [unfolded(b["constants"], f) for b, f in zip(bodies, (old, new), strict=True)]
    assert constants[0] == constants[1]
    assert len(after) < len(before)
    load: Callable[[Any], Any] = _load_for_lite_interpreter
    with qnnpack_engine(), torch.no_grad():
        assert torch.equal(load(io.BytesIO(before))(batch()), load(io.BytesIO(after))(batch()))


def test_scales_are_float32_and_all_zero_points_one_number() -> None:
    files = taken_apart(compact(saved(quantized("tiny", "pool").float_boundary)))
    calls = walk(files["bytecode.pkl"], EVERYTHING).calls
    per_channel = [c.arguments[4] for c in calls if c.function.text.endswith("_rebuild_qtensor")]
    assert len(per_channel) > 5
    for _, scales, points, _ in per_channel:
        assert scales.arguments[0].key[1].text == "torch FloatStorage"
        assert points.arguments[0].key[1].text == "torch LongStorage"
        assert points.arguments[3] == (0,)


class Doubles(nn.Module):
    """A number that float32 does not have, and complex ones."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(self.weight * x) if self.weight.is_complex() else self.weight * x


def test_what_is_no_scale_keeps_its_type() -> None:
    data = compact(saved(Doubles(torch.tensor([0.1, 0.2], dtype=torch.float64))))
    load: Callable[[Any], Any] = _load_for_lite_interpreter
    found = load(io.BytesIO(data))(torch.ones(2, dtype=torch.float64))
    assert torch.equal(found, torch.tensor([0.1, 0.2], dtype=torch.float64))


def test_a_type_that_no_edge_has_is_refused() -> None:
    with pytest.raises(ExportError, match="ComplexFloatStorage"):
        compact(saved(Doubles(torch.tensor([1j, 2j]))))
