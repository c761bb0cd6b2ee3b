from __future__ import annotations

import sys

import numpy as np
import onnx
import onnx.reference
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from edgeveil import COMMANDS
from records.doctor import RuntimeHealth
from runtime_check import doctor, runtime_probe, saturation_model
from runtime_check.machine import machine_record

LITE_WORKS = RuntimeHealth(runtime="lite", version="1", works=True, detail="runs")


def test_the_model_written_by_hand_is_the_one_onnx_writes() -> None:
    weight = np.full((saturation_model.DEPTH, saturation_model.COLUMNS), saturation_model.B)
    shape_a = (saturation_model.ROWS, saturation_model.DEPTH)
    shape_y = (saturation_model.ROWS, saturation_model.COLUMNS)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "saturation",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, shape_a)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, shape_y)],
        [numpy_helper.from_array(weight.astype(np.int8), "b")],
    )
    expected = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.load_from_string(saturation_model.saturation_model())
    onnx.checker.check_model(model)
    assert model == expected


def test_the_expected_product_is_the_reference_implementations() -> None:
    model = onnx.load_from_string(saturation_model.saturation_model())
    a = np.full((saturation_model.ROWS, saturation_model.DEPTH), saturation_model.A, np.uint8)
    (product,) = onnx.reference.ReferenceEvaluator(model).run(None, {"a": a})
    assert set(np.asarray(product).ravel().tolist()) == {saturation_model.EXPECTED}
    # What makes it a probe: the sum of two products does not fit in 16 bits.
    assert 2 * saturation_model.A * saturation_model.B > 2**15 - 1


def test_onnx_runtime_multiplies_exactly_here() -> None:
    assert "exact" in runtime_probe.probe_ort()


def test_a_saturating_kernel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation_model, "EXPECTED", saturation_model.EXPECTED + 1)
    with pytest.raises(ArithmeticError, match="saturate"):
        runtime_probe.probe_ort()


def test_the_lite_interpreter_computes_here() -> None:
    assert runtime_probe.probe_lite() == "runs; engine qnnpack"


@pytest.mark.parametrize(
    ("code", "works", "detail"),
    [
        ("print('first'); print('runs')", True, "runs"),
        ("import sys; sys.stderr.write('x\\nImportError: no'); sys.exit(1)", False, "ImportError"),
        ("import sys; sys.exit(5)", False, "exit code 5"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", False, "SIGILL"),
    ],
)
def test_whatever_a_probe_does_is_an_answer(code: str, works: bool, detail: str) -> None:
    found = doctor._ask([sys.executable, "-c", code])
    assert found[0] is works
    assert detail in found[1]


def test_a_hanging_probe_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_SECONDS", 0.2)
    found = doctor._ask([sys.executable, "-c", "import time; time.sleep(60)"])
    assert found == (False, "no answer within 0.2 s")


def test_missing_packages_by_the_name_that_pip_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert doctor.missing(("skimage", "PIL")) == ("scikit-image", "pillow")
    health = doctor.runtime_health("lite", "torch")
    assert (health.works, health.version) == (False, None)
    assert health.detail == "torch is not installed"


def test_every_verb_is_known_to_the_doctor() -> None:
    assert set(doctor.VERBS) == set(COMMANDS)


def test_what_follows_from_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine_record()
    pi4 = replace(
        here,
        arch="aarch64",
        isa=("asimd",),
        vnni=False,
        ort_mode="default",
        governors=("ondemand",),
        virtual=None,
    )
    monkeypatch.setattr(doctor, "is_x86", lambda: False)
    assert "no 8-bit dot products" in doctor.follows(pi4)[0]
    assert "ondemand" in doctor.follows(pi4)[1]
    assert "can use them" in doctor.follows(replace(pi4, isa=("asimd", "asimddp")))[0]
    old_x86 = replace(pi4, ort_mode="precise", governors=())
    assert "precise mode" in doctor.follows(old_x86)[0]
    assert "exact" in doctor.follows(replace(old_x86, ort_mode="default", vnni=True))[0]
    emulated = replace(old_x86, emulated="qemu-aarch64")
    assert "INVALID" in doctor.follows(emulated)[1]


def test_what_will_be_skipped() -> None:
    one_core = replace(machine_record(), cores=1)
    assert [text.split(":")[0] for text in doctor.skipped(one_core, [LITE_WORKS])] == [
        "bench with 2 threads",
        "bench with 4 threads",
    ]
    broken = replace(LITE_WORKS, version=None, works=False, detail="torch is not installed")
    many = replace(one_core, cores=64)
    assert doctor.skipped(many, [LITE_WORKS]) == ()
    assert doctor.skipped(many, [broken]) == (
        "every .ptl artifact: torch is not installed; run: pip install '.[export]'",
    )


def test_without_ssh_no_device_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ssh_missing", lambda: None)
    assert doctor.devices_skipped() == ()
    monkeypatch.setattr(doctor, "ssh_missing", lambda: "ssh is not here; install it")
    assert doctor.devices_skipped() == (
        "device and every ssh:// target: ssh is not here; install it",
    )
