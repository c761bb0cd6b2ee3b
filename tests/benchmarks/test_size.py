from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.size import artifact_sizes, shipped, size_ratios
from tests.benchmarks.toy_bundle import CHANNELS, toy_bundle


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path)
    sizes = artifact_sizes(shipped(bundle))
    assert [s.artifact for s in sizes] == [a.name for a in bundle.manifest.artifacts]
    for size in sizes:
        assert size.file_bytes == (tmp_path / f"{size.artifact}.onnx").stat().st_size
    assert {s.weight_bytes for s in sizes} == {CHANNELS * 27 * 4, CHANNELS * 27}


def test_ratios_pair_fp32_with_int8_of_one_runtime(tmp_path: Path) -> None:
    sizes = artifact_sizes(shipped(toy_bundle(tmp_path)))
    other_runtime = tuple(
        replace(s, runtime="lite", artifact=s.artifact.replace("onnx", "lite")) for s in sizes
    )
    server = replace(sizes[0], role="server", artifact="server_fp32_onnx")
    ratios = size_ratios((*sizes, *other_runtime, server))
    assert [(r.fp32, r.int8) for r in ratios] == [
        (f"edge_fp32_{end}", f"edge_{kind}_{end}")
        for end in ("onnx", "lite")
        for kind in ("int8", "int8_wire")
    ]
    assert {r.weight_ratio for r in ratios} == {4.0}
    assert ratios[0].file_ratio == pytest.approx(sizes[0].file_bytes / sizes[1].file_bytes)


def test_no_weights_no_ratio(tmp_path: Path) -> None:
    fp32, int8, _ = artifact_sizes(shipped(toy_bundle(tmp_path)))
    (ratio,) = size_ratios((fp32, replace(int8, weight_bytes=0)))
    assert ratio.weight_ratio is None
