"""The ONNX scan on models that ``onnx`` itself made, and on models with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.bundle_errors import (
    ArtifactMismatchError,
    ExternalDataError,
    MalformedArtifactError,
    NonFiniteWeightsError,
    UnsafeOperatorError,
)
from export.onnx_scan import scan_onnx
from export.onnx_schema import TENSOR
from export.onnx_tensor import DTYPES, tensor_values
from export.protobuf import parse
from records.errors import BundleError
from records.manifest import Artifact, TensorSpec, WireTensor

WIRE = WireTensor(shape=(4, 8, 8), scale=float(np.float32(0.1)), zero_point=3)
BOUNDARY = TensorSpec(name="boundary", shape=(4, 8, 8), dtype="float32")
FP32 = Artifact(
    name="edge_fp32_onnx",
    file="edge_fp32.onnx",
    format="onnx",
    role="edge",
    precision="fp32",
    boundary="float",
    sha256=64 * "0",
    size=1,
    weight_bytes=0,
    input=TensorSpec(name="input", shape=(3, 8, 8), dtype="float32"),
    output=BOUNDARY,
    opset=17,
)
INT8 = msgspec.structs.replace(FP32, precision="int8")
WIRE_END = msgspec.structs.replace(
    INT8, boundary="wire", output=TensorSpec(name="boundary", shape=(4, 8, 8), dtype="uint8")
)


def model(kind: Artifact, edit: Callable[[ModelProto], Any] | None = None) -> bytes:
    """Return a 1×1 convolution that ends as the artifact says, serialized after ``edit``."""
    weights = [
        numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.array(WIRE.scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(WIRE.zero_point, np.uint8), "zero"),
    ]
    steps = {
        "fp32": [],
        "float": [("QuantizeLinear", "q"), ("DequantizeLinear", "boundary")],
        "wire": [("QuantizeLinear", "boundary")],
    }["fp32" if kind.precision == "fp32" else kind.boundary]
    last = "c" if steps else "boundary"
    nodes = [helper.make_node("Conv", ["input", "w"], [last], name="conv", kernel_shape=[1, 1])]
    for operator, output in steps:
        nodes.append(helper.make_node(operator, [last, "scale", "zero"], [output], name=output))
        last = output
    element = TensorProto.UINT8 if kind.boundary == "wire" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "edge",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("boundary", element, ["N", 4, 8, 8])],
        initializer=weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    if edit is not None:
        edit(made)
    data: bytes = made.SerializeToString()
    return data


@pytest.mark.parametrize("kind", [FP32, INT8, WIRE_END])
def test_valid_models_pass(kind: Artifact) -> None:
    scan_onnx(model(kind), kind, WIRE, "good.onnx")


def weight(value: float, *, raw: bool = True) -> Callable[[ModelProto], Any]:
    def edit(made: ModelProto) -> None:
        array = np.ones((4, 3, 1, 1), np.float32)
        array[1, 2] = value
        tensor = numpy_helper.from_array(array, "w")
        if not raw:
            tensor = helper.make_tensor("w", TensorProto.FLOAT, array.shape, array.ravel())
        made.graph.initializer[0].CopyFrom(tensor)

    return edit


def constant_node(value: float) -> Callable[[ModelProto], Any]:
    tensor = numpy_helper.from_array(np.array([value, 1.0]), "t")
    return lambda m: m.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=tensor))


def attribute(**values: Any) -> Callable[[ModelProto], Any]:
    return lambda m: m.graph.node[0].attribute.extend(
        helper.make_attribute(name, value) for name, value in values.items()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "edit",
    [
        weight,
        lambda v: weight(v, raw=False),
        constant_node,
        lambda v: attribute(alpha=v),
        lambda v: attribute(scales=[1.0, v]),
    ],
)
def test_numbers_that_are_not_finite_are_refused(
    edit: Callable[[float], Callable[[ModelProto], Any]], value: float
) -> None:
    with pytest.raises(NonFiniteWeightsError):
        scan_onnx(model(FP32, edit(value)), FP32, WIRE, "bad.onnx")
    scan_onnx(model(FP32, edit(0.5)), FP32, WIRE, "good.onnx")


def branch() -> onnx.GraphProto:
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N"])
    return helper.make_graph([helper.make_node("Relu", ["input"], ["b"])], "branch", [], [out])


def insert(operator: str, domain: str = "", **values: Any) -> Callable[[ModelProto], Any]:
    node = helper.make_node(operator, ["input"], ["extra"], name="extra", domain=domain, **values)
    return lambda m: m.graph.node.append(node)


def domain(name: str) -> Callable[[ModelProto], Any]:
    return lambda m: m.opset_import.append(helper.make_opsetid(name, 1))


def function(m: ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    opsets = [helper.make_opsetid("", 17)]
    m.functions.append(helper.make_function("", "Evil", ["x"], ["y"], [node], opsets))


@pytest.mark.parametrize(
    "edit",
    [
        insert("If", then_branch=branch(), else_branch=branch()),
        insert("Loop", body=branch()),
        insert("Scan", body=branch(), num_scan_inputs=1),
        insert("SequenceMap", body=branch()),
        insert("SequenceConstruct"),
        insert("OptionalHasElement"),
        insert("Relu", body=branch()),
        insert("Evil", domain="evil.example"),
        insert("Relu", domain="com.microsoft.nchwc"),
        insert("ExecuteShell", domain="com.microsoft"),
        insert("Attention", domain="com.microsoft"),
        domain("evil.example"),
        domain("ai.onnx.ml"),
        domain("ai.onnx.preview.training"),
        function,
        lambda m: m.training_info.add(),
    ],
)
def test_control_flow_functions_and_other_domains_are_refused(
    edit: Callable[[ModelProto], Any],
) -> None:
    with pytest.raises(UnsafeOperatorError):
        scan_onnx(model(FP32, edit), FP32, WIRE, "bad.onnx")


def test_quantized_operators_of_onnx_runtime_are_allowed() -> None:
    def edit(m: ModelProto) -> None:
        domain("com.microsoft")(m)
        insert("QLinearAdd", domain="com.microsoft")(m)

    scan_onnx(model(INT8, edit), INT8, WIRE, "good.onnx")


def external(m: ModelProto) -> None:
    tensor = m.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def external_without_location(m: ModelProto) -> None:
    m.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def external_constant(m: ModelProto) -> None:
    tensor = TensorProto(name="k", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    m.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=tensor))


@pytest.mark.parametrize("edit", [external, external_without_location, external_constant])
def test_external_data_is_refused(edit: Callable[[ModelProto], Any]) -> None:
    with pytest.raises(ExternalDataError):
        scan_onnx(model(FP32, edit), FP32, WIRE, "bad.onnx")


def first(field: str, value: Any) -> Callable[[ModelProto], Any]:
    def edit(m: ModelProto) -> None:
        tensor = m.graph.initializer[0]
        if field == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, field, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (first("dims", [4, 3, 1, 2]), "holds 12 values"),
        (first("dims", [1 << 40]), "dimensions"),
        (first("dims", [1 << 20, 1 << 20]), "claims"),
        (first("dims", [-4, 3]), "dimensions"),
        (first("dims", [1] * 9), "dimensions"),
        (first("raw_data", b"\0" * 47), "47 bytes"),
        (first("raw_data", b"\0" * 44), "holds 11 values"),
        (first("raw_data", b""), "holds 0 values"),
        (first("data_type", 8), "data type 8"),
        (first("data_type", 0), "data type 0"),
        (first("data_type", 99), "data type 99"),
        (first("name", "scale"), "'scale' twice"),
        (first("name", "input"), "'input' twice"),
        (first("name", ""), "twice"),
        (lambda m: m.graph.initializer[0].int32_data.append(1), "raw_data and int32_data"),
        (lambda m: m.graph.initializer[0].segment.SetInParent(), "field 3"),
        (lambda m: m.graph.node[0].output.append("input"), "'input' twice"),
        (lambda m: m.graph.node[0].input.append("nowhere"), "'nowhere'"),
        (lambda m: m.graph.node[0].output.__delitem__(0), "makes nothing"),
        (lambda m: attribute(kernel_shape=[1])(m), "attribute twice"),
        (lambda m: m.graph.sparse_initializer.add(), "sparse"),
        (lambda m: m.ClearField("graph"), "no graph"),
        (
            lambda m: m.graph.node[0].attribute.add(name="x", ref_attr_name="y", type=1),
            "field 21",
        ),
    ],
)
def test_inconsistent_models_are_refused(edit: Callable[[ModelProto], Any], reason: str) -> None:
    with pytest.raises(MalformedArtifactError, match=reason):
        scan_onnx(model(FP32, edit), FP32, WIRE, "bad.onnx")


def end(which: str, index: int, value: Any) -> Callable[[ModelProto], Any]:
    def edit(m: ModelProto) -> None:
        dim = getattr(m.graph, which)[0].type.tensor_type.shape.dim[index]
        if isinstance(value, str):
            dim.dim_param = value
        else:
            dim.dim_value = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        end("input", 1, 4),
        end("input", 0, 1),
        end("input", 2, "H"),
        end("output", 3, 9),
        end("output", 0, 2),
        lambda m: setattr(m.graph.input[0], "name", "image"),
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.UINT8),
        lambda m: m.graph.input[0].ClearField("type"),
        lambda m: m.graph.output.append(m.graph.output[0]),
        lambda m: m.graph.ClearField("output"),
        lambda m: setattr(m.opset_import[0], "version", 18),
        lambda m: m.ClearField("opset_import"),
        domain(""),
    ],
)
def test_ends_and_opset_must_be_the_manifests(edit: Callable[[ModelProto], Any]) -> None:
    with pytest.raises((ArtifactMismatchError, MalformedArtifactError)):
        scan_onnx(model(FP32, edit), FP32, WIRE, "bad.onnx")


def test_a_second_input_is_refused() -> None:
    extra = helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"])
    with pytest.raises(ArtifactMismatchError, match="more"):
        scan_onnx(model(FP32, lambda m: m.graph.input.append(extra)), FP32, WIRE, "bad.onnx")


def quantizer(array: Any, name: str) -> Callable[[ModelProto], Any]:
    index = {"scale": 1, "zero": 2}[name]
    return lambda m: m.graph.initializer[index].CopyFrom(numpy_helper.from_array(array, name))


@pytest.mark.parametrize("kind", [INT8, WIRE_END])
@pytest.mark.parametrize(
    "edit",
    [
        quantizer(np.array(0.2, np.float32), "scale"),
        quantizer(np.nextafter(np.float32(0.1), np.float32(1)), "scale"),
        quantizer(np.array(0.1), "scale"),
        quantizer(np.array([0.1, 0.1], np.float32), "scale"),
        quantizer(np.array(4, np.uint8), "zero"),
        quantizer(np.array(3, np.int8), "zero"),
        lambda m: m.graph.node[-1].input.__delitem__(2),
    ],
)
def test_the_boundarys_scale_must_be_the_manifests(
    kind: Artifact, edit: Callable[[ModelProto], Any]
) -> None:
    with pytest.raises(ArtifactMismatchError, match="ends with"):
        scan_onnx(model(kind, edit), kind, WIRE, "bad.onnx")


def test_an_int8_edge_must_end_with_its_quantizer() -> None:
    with pytest.raises(ArtifactMismatchError, match="ends with Conv"):
        scan_onnx(model(FP32), INT8, WIRE, "bad.onnx")


@pytest.mark.parametrize("kind", [INT8, WIRE_END])
def test_an_int8_model_is_not_taken_for_fp32(kind: Artifact) -> None:
    claimed = msgspec.structs.replace(kind, precision="fp32")
    with pytest.raises(ArtifactMismatchError, match="says fp32"):
        scan_onnx(model(kind), claimed, WIRE, "bad.onnx")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_what_passes_after_damage_is_a_model_that_onnx_reads(data: st.DataObject) -> None:
    bad = bytearray(model(INT8))
    at = data.draw(st.integers(0, len(bad) - 1))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        scan_onnx(bytes(bad), INT8, WIRE, "bad.onnx")
    except BundleError:
        return
    read = onnx.load_model_from_string(bytes(bad))
    for tensor in read.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert array.dtype.kind != "f" or np.isfinite(array).all()


SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_tensors_have_the_values_that_onnx_reads(data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(sorted(DTYPES)))
    elements = {"allow_nan": False, "allow_infinity": False}
    floats = DTYPES[number].kind == "f"
    array = data.draw(hnp.arrays(DTYPES[number], SHAPES, elements=elements if floats else None))
    stored = numpy_helper.from_array(array)
    if data.draw(st.booleans()):
        stored = helper.make_tensor("t", number, array.shape, array.ravel())
    found = tensor_values(parse(stored.SerializeToString(), TENSOR), "t")
    expected = numpy_helper.to_array(stored)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()
