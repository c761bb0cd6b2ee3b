"""The operators that are read from the bytes are those that the formats' own tools see."""

from __future__ import annotations

import io
import json
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from click.testing import CliRunner
from torch.jit.mobile import _get_model_bytecode_version, _get_model_ops_and_info

from commands.operators import command
from export.bundle import Bundle
from export.operator_list import operators_of
from export.pte_scan import NAMESPACES
from records import codec
from records.operators import ArtifactOperators, OperatorsRecord
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from torch import nn

FORMATS = (
    "ptl",
    "onnx",
    "ort",
    *(["tflite"] if find_spec("ai_edge_litert") else []),
    *(["pte"] if find_spec("executorch") else []),
)


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("operators"), tiny_model, tiny_images, 8, FORMATS)[0]


def listed(bundle: Bundle, suffix: str) -> list[tuple[ArtifactOperators, bytes]]:
    found = [
        (one, bundle.read(bundle.artifact(one.artifact)))
        for one in operators_of(bundle).artifacts
        if one.file.endswith(suffix)
    ]
    assert found
    return found


def test_every_edge_artifact_is_listed_once(bundle: Bundle) -> None:
    names = [one.artifact for one in operators_of(bundle).artifacts]
    assert sorted(names) == sorted(edge.name for edge in bundle.edges())


def test_onnx_as_onnx_reads_it(bundle: Bundle) -> None:
    for one, data in listed(bundle, ".onnx"):
        model = onnx.load_model_from_string(data)
        counted = Counter(f"{n.domain or 'ai.onnx'}:{n.op_type}" for n in model.graph.node)
        assert {use.name: use.uses for use in one.operators} == counted
        assert one.versions["IR"] == model.ir_version
        assert one.versions["opset ai.onnx"] == model.opset_import[0].version


def test_lite_as_torch_reads_it(bundle: Bundle) -> None:
    for one, data in listed(bundle, ".ptl"):
        path = bundle.path(bundle.artifact(one.artifact))
        seen = _get_model_ops_and_info(path)  # type: ignore[no-untyped-call]
        assert {use.name for use in one.operators} == set(seen)
        version = _get_model_bytecode_version(io.BytesIO(data))
        assert one.versions == {"bytecode": version}


@pytest.mark.parametrize("suffix", [".onnx", ".ort"])
def test_only_the_domains_of_the_operators_are_listed(bundle: Bundle, suffix: str) -> None:
    for one, _ in listed(bundle, suffix):
        used = {f"opset {use.name.partition(':')[0]}" for use in one.operators}
        assert {name for name in one.versions if name.startswith("opset ")} == used


def test_ort_has_the_fused_integer_kernels(bundle: Bundle) -> None:
    for one, _ in listed(bundle, ".ort"):
        names = {use.name for use in one.operators}
        if one.precision == "int8":
            assert "ai.onnx:QLinearConv" in names
        else:
            assert not any("QLinear" in name for name in names)


@pytest.mark.skipif("tflite" not in FORMATS, reason="the extra litert is missing")
def test_tflite_as_litert_reads_it(bundle: Bundle) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    for one, data in listed(bundle, ".tflite"):
        interpreter = Interpreter(
            model_content=data,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        counted = Counter(details["op_name"] for details in interpreter._get_ops_details())
        assert {use.name: use.uses for use in one.operators} == counted


@pytest.mark.skipif("pte" not in FORMATS, reason="the extra executorch is missing")
def test_pte_calls_xnnpack(bundle: Bundle) -> None:
    for one, _ in listed(bundle, ".pte"):
        uses = {use.name: use.uses for use in one.operators}
        assert uses["XnnpackBackend"] >= 1
        assert all(name.startswith(("XnnpackBackend", *NAMESPACES)) for name in uses)


def test_the_command_prints_the_record_or_a_table(bundle: Bundle) -> None:
    folder = bundle.path(bundle.artifact("edge_int8_onnx")).parent
    runner = CliRunner(env={"COLUMNS": "80"})
    printed = runner.invoke(command, [str(folder), "--json"], catch_exceptions=False)
    record = codec.decode(printed.stdout.encode(), OperatorsRecord, "stdout")
    assert record == operators_of(bundle)
    assert json.loads(printed.stdout)["schema"] == "edgeveil.operators/1"
    table = runner.invoke(command, [str(folder)], catch_exceptions=False).stdout
    assert "bytecode" in table
    for one in record.artifacts:
        for use in one.operators:
            assert f" {use.name} ×{use.uses}" in table
