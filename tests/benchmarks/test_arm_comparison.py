"""The plain export, and the comparison with it; real counts are taken under the emulator only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from benchmarks import arm_comparison
from benchmarks.against_executorch import OWN, OwnProgram, int8_edges, verdict
from benchmarks.arm_comparison import calibration_images, compare, failures
from benchmarks.plain_static import plain_static
from export.bundle import Bundle
from records import codec
from records.arm_comparison import ArmComparisonRecord
from records.errors import DataError, ExportError, UnsupportedHereError
from records.recipe import DataRecipe
from runtime_check import availability
from runtime_check.targets import open_target
from tests.benchmarks.test_instructions import counter_file, processes
from tests.benchmarks.toy_bundle import SIDE, toy_bundle
from tests.runtime_check.targets.here import Here


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "toy" / "bundle")


@pytest.fixture
def images() -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(0).standard_normal((40, 3, SIDE, SIDE))
    return noise.astype(np.float32)


def target(*ours: int, plain: int = 1000) -> Here:
    """Return a target on which ours takes so many instructions in each process."""
    runs = [counter_file(5000, one, plain, plain + 100) for one in ours]
    return Here(counted=processes(*runs))


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_the_plain_export_is_the_same_network_in_integers(
    activations: Any, bundle: Bundle, images: npt.NDArray[np.float32]
) -> None:
    fp32 = bundle.read(bundle.artifact("edge_fp32_onnx"))
    data = plain_static(fp32, "input", images, activations)
    model = onnx.load_model_from_string(data)
    constants = {i.name: i for i in model.graph.initializer}
    kinds = {
        constants[node.input[2]].data_type
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    wanted = {"int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8}[activations]
    assert kinds == {wanted}
    (weight,) = (i for i in constants.values() if len(i.dims) == 4)
    assert weight.data_type == onnx.TensorProto.INT8
    found, expected = (
        onnxruntime.InferenceSession(d, _unoptimized()).run(None, {"input": images})[0]
        for d in (data, fp32)
    )
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03 * expected.std()
    assert found.std() > 0


def _unoptimized() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def test_what_cannot_be_quantized_is_refused(bundle: Bundle) -> None:
    fp32 = bundle.read(bundle.artifact("edge_fp32_onnx"))
    with pytest.raises(ExportError, match="no calibration images"):
        plain_static(fp32, "input", np.zeros((0, 3, SIDE, SIDE), np.float32), "int8")
    with pytest.raises(ExportError, match="refuses"):
        plain_static(b"no model", "input", np.zeros((1, 3, SIDE, SIDE), np.float32), "int8")


def test_the_ratio_is_ours_over_theirs(bundle: Bundle, images: npt.NDArray[np.float32]) -> None:
    with target(790, 790) as here:
        record = compare(bundle, here, images)
    assert [p.activations for p in record.plain] == ["int8", "uint8"]
    assert [p.ratio for p in record.plain] == pytest.approx([0.79, 790 / 1100])
    assert record.passed
    assert record.fp32.mean.all == 5000
    assert record.calibration_images == 40
    assert "not cycles" in record.note


@pytest.mark.parametrize(
    ("ours", "saves"),
    [pytest.param((810, 810), False, id="too much"), pytest.param((780, 790), True, id="apart")],
)
def test_the_gate(
    ours: tuple[int, int], saves: bool, bundle: Bundle, images: npt.NDArray[np.float32]
) -> None:
    with target(*ours) as here:
        record = compare(bundle, here, images)
    assert not record.passed
    assert record.plain[0].saves is saves
    assert record.plain[1].saves
    assert record.ours.repeatable is (ours[0] == ours[1])


def test_a_bundle_without_an_int8_edge_is_unsupported(
    bundle: Bundle, images: npt.NDArray[np.float32]
) -> None:
    kept = tuple(a for a in bundle.manifest.artifacts if a.precision == "fp32")
    bare = Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, artifacts=kept))
    with target(1, 1) as here, pytest.raises(UnsupportedHereError, match="int8"):
        compare(bare, here, images)


def own_on_this_machine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, *, best: int, own: int
) -> Here:
    """Return a target on which the only INT8 edge and ExecuTorch's own take so many instructions.

    The runner in C++ is for ARM: another model is loaded in the place of ExecuTorch's own here.
    """
    fp32 = bundle.artifact("edge_fp32_onnx")
    artifact = msgspec.structs.replace(fp32, name=OWN, precision="int8")
    program = OwnProgram("XNNPACKQuantizer", artifact, bundle.read(fp32), 1)
    monkeypatch.setattr(arm_comparison, "own_program", lambda *given: program)
    run = counter_file(9000, best, 2 * best, 2 * best, own)
    return Here(counted=processes(run, run, subjects=5))


@pytest.mark.parametrize(
    ("best", "own", "passes"),
    [
        pytest.param(1000, 1001, True, id="below"),
        pytest.param(1000, 1000, True, id="equal"),
        pytest.param(1001, 1000, False, id="above"),
    ],
)
def test_the_gate_of_executorch_s_own_export(
    best: int,
    own: int,
    passes: bool,
    bundle: Bundle,
    images: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with own_on_this_machine(bundle, monkeypatch, best=best, own=own) as here:
        record = compare(bundle, here, images)
    assert record.executorch is not None
    assert record.executorch.counted.mean.all == own
    assert [one.artifact for one in record.executorch.int8] == ["edge_int8_onnx"]
    assert record.executorch.best == "edge_int8_onnx"
    assert record.executorch.ratio == pytest.approx(best / own)
    assert all(one.saves for one in record.plain)
    assert record.passed is record.executorch.not_above is passes
    assert failures(record) == (
        [] if passes else ["the best edge, edge_int8_onnx, is above ExecuTorch's own export"]
    )


def test_the_cheapest_edge_is_the_best(bundle: Bundle, images: npt.NDArray[np.float32]) -> None:
    with target(790, 790) as here:
        ours = compare(bundle, here, images).ours
    dear, cheap = (
        msgspec.structs.replace(
            ours, artifact=name, mean=msgspec.structs.replace(ours.mean, all=count)
        )
        for name, count in (("dear", 900), ("cheap", 700))
    )
    fp32 = bundle.artifact("edge_fp32_onnx")
    own = OwnProgram("XNNPACKQuantizer", fp32, b"", 1)
    found = verdict(own, ours, (dear, cheap))
    assert (found.best, found.not_above) == ("cheap", True)
    assert not verdict(own, ours, (dear,)).not_above


@pytest.mark.parametrize(
    ("absent", "lacks", "weights", "reason"),
    [
        pytest.param(None, (), None, "--weights", id="no weights"),
        pytest.param("executorch", (), Path("w"), r"\[executorch\]", id="not installed"),
        pytest.param(None, ("executorch",), Path("w"), "no executorch here", id="target"),
    ],
)
def test_what_cannot_be_compared_with_executorch_is_named_and_the_rest_runs(
    absent: str | None,
    lacks: tuple[str, ...],
    weights: Path | None,
    reason: str,
    bundle: Bundle,
    images: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: Any = object()
    monkeypatch.setattr(availability, "find_spec", lambda name: None if name == absent else found)
    run = counter_file(5000, 790, 1000, 1100)
    with Here(lacks, processes(run, run)) as here:
        record = compare(bundle, here, images, weights=weights)
    assert record.executorch is None
    (skipped,) = record.skipped
    assert skipped.artifact == OWN
    assert re.search(reason, skipped.reason)
    assert record.passed
    assert len(record.plain) == 2


def test_an_edge_that_does_not_run_there_is_named(bundle: Bundle) -> None:
    lite = msgspec.structs.replace(
        bundle.artifact("edge_int8_onnx"), name="edge_int8_lite", format="torchscript-lite"
    )
    artifacts = (*bundle.manifest.artifacts, lite)
    more = Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, artifacts=artifacts))
    with Here(("torchscript-lite",)) as here:
        kept, skipped = int8_edges(more, here)
    assert [one.name for one in kept] == ["edge_int8_onnx"]
    assert [(one.artifact, one.reason) for one in skipped] == [
        ("edge_int8_lite", "no torchscript-lite here")
    ]


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    arrays: dict[str, Any] = {
        f"{part}_{kind}": value
        for part, count in (("train", 60), ("test", 8))
        for kind, value in (
            ("x", rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)),
            ("y", np.arange(count, dtype=np.int64) % 4),
        )
    }
    np.savez(path, **arrays)
    return f"npz:{path}"


def recipe_of(source: str) -> DataRecipe:
    return DataRecipe(source=source, native_size=SIDE, train=16, calibration=12, attacker=16)


def test_calibration_images_are_the_bundle_s_own(tmp_path: Path, data: str) -> None:
    bundle = toy_bundle(tmp_path / "b", data=recipe_of("npz:nowhere.npz"))
    with pytest.raises(DataError):
        calibration_images(bundle.manifest)
    found = calibration_images(bundle.manifest, data)
    assert found.shape == (12, 3, SIDE, SIDE)
    assert found.dtype == np.float32


def test_the_command_writes_the_record_and_exits_2_where_the_gate_fails(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = toy_bundle(tmp_path / "b", data=recipe_of(data))
    monkeypatch.setattr(arm_comparison, "load_bundle", lambda path: bundle)
    targets = [target(790, 790), target(900, 900), target(700, 700)]
    monkeypatch.setattr(open_target, "EmulatedTarget", lambda name, root: targets.pop(0))
    out = tmp_path / "comparison.json"
    arguments = [str(bundle.folder), "--target", "cortex-a76", "--out", str(out)]
    assert arm_comparison.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "ours is 0.790 of it" in printed
    assert "skipped executorch_own: it starts from the network itself" in printed
    assert codec.read(out, ArmComparisonRecord).passed
    assert arm_comparison.main([*arguments, "--force"]) == 2
    assert "20% below" in capsys.readouterr().err
    assert not codec.read(out, ArmComparisonRecord).passed
    assert arm_comparison.main(arguments) == 1
    assert "already exists" in capsys.readouterr().err
    assert arm_comparison.main([str(bundle.folder), "--target", "host"]) == 3
