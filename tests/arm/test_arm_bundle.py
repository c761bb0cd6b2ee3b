"""A whole bundle on the ARM kernels: check, bench and attack, and what must fail there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from attack.evaluate import attack_bundle
from benchmarks.instructions import SPREAD_LIMIT, count_instructions
from benchmarks.latency import RUNTIMES
from records.attack import failed_gates
from records.errors import ArtifactError
from runtime_check.check import check_bundle
from runtime_check.gates import failed
from runtime_check.machine import needs_precise_mode
from runtime_check.runtime import runtime_for
from runtime_check.targets.counters import parse_marks
from runtime_check.targets.emulated import EmulatedTarget
from runtime_check.targets.remote import send
from runtime_check.targets.wheels import (
    EXECUTORCH_WHEELS,
    LITE_WHEELS,
    LITERT_WHEELS,
    RUNTIME_WHEELS,
)
from tests.arm.arm_targets import prepared
from tests.runtime_check.tiny_bundle import (
    replaced,
    tiny_bundle,
    with_varied_classes,
    wrong_weights,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from baseline.datasets import ImageSplits
    from export.bundle import Bundle

pytestmark = [pytest.mark.arm, pytest.mark.slow]

Tiny = tuple["Bundle", "ImageSplits"]
#: Every format that this installation writes.
FORMATS = (
    *("ptl", "onnx", "ort"),
    *(["pte"] if find_spec("executorch") else []),
    *(["tflite"] if find_spec("ai_edge_litert") else []),
)
WHEELS = (*RUNTIME_WHEELS, *LITE_WHEELS, *EXECUTORCH_WHEELS, *LITERT_WHEELS)
#: Runtimes whose integer kernels give the same bits on ARM as on this host.
SAME_BITS = {"edge_int8_lite", "edge_int8_wire_lite", "edge_int8_pte", "edge_int8_wire_pte"}


@pytest.fixture(scope="module", params=["cortex-a72", "cortex-a76"])
def target(request: pytest.FixtureRequest) -> Iterator[EmulatedTarget]:
    with EmulatedTarget(request.param, prepared(request.param)) as found:
        yield found


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Tiny:
    model = with_varied_classes(tiny_model, tiny_images)
    return tiny_bundle(tmp_path_factory.mktemp("arm"), model, tiny_images, 8, FORMATS)


def test_check(target: EmulatedTarget, tiny: Tiny) -> None:
    bundle, splits = tiny
    record = check_bundle(bundle, splits.victim, target=target)
    assert failed(record.gates) == ()
    assert record.skipped == ()
    assert record.target is not None
    assert record.target.machine == "aarch64"
    assert set(record.target.wheels.values()) == {w.sha256 for w in WHEELS}
    same = {row.artifact: row.from_host.max_lsb for row in record.host if row.artifact in SAME_BITS}
    assert same == dict.fromkeys(SAME_BITS & {a.name for a in bundle.edges("int8")}, 0)
    compared = {row.artifact for row in record.artifacts if row.lsb is not None}
    assert compared == {artifact.name for artifact in bundle.edges("int8")}
    for row in record.artifacts:
        if row.lsb is not None:
            assert row.lsb.share_within_1_lsb >= 0.99, row.artifact


def test_a_wrong_artifact_fails(
    target: EmulatedTarget,
    tiny: Tiny,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    bundle, splits = tiny
    wrong, _ = tiny_bundle(tmp_path / "wrong", wrong_weights(tiny_model), tiny_images)
    name = "edge_int8_wire_onnx"
    bad = replaced(bundle, tmp_path / "bad", name, wrong.path(wrong.artifact(name)))
    record = check_bundle(bad, splits.victim.take(np.arange(50)), target=target)
    assert ("onnx_share_within_1_lsb", name) in {(g.name, g.artifact) for g in failed(record.gates)}


def test_bench(target: EmulatedTarget, tiny: Tiny) -> None:
    bundle, _ = tiny
    # torch's import alone takes most of a minute under the counter: one CPU shows that it works.
    newer = target.record.name == "cortex-a76"
    runtimes = tuple(name for name in RUNTIMES if newer or name != "lite")
    record = count_instructions(bundle, target, runtimes=runtimes)
    assert record.passed
    assert all(one.spread <= SPREAD_LIMIT for one in record.artifacts)
    counted = {one.artifact: one.mean for one in record.artifacts}
    assert ("edge_int8_lite" in counted) == newer
    assert counted["edge_fp32_onnx"].fmla > 0
    assert (counted["edge_fp32_onnx"].dot, counted["edge_int8_onnx"].mmla) == (0, 0)
    for kind in sorted({"onnx", *FORMATS} - {"ptl"}):
        # The dot product is what the Cortex-A72 lacks; there INT8 kernels multiply and widen.
        int8 = counted[f"edge_int8_{kind}"]
        assert (int8.dot > 0) == newer, kind
        assert newer or int8.widening_multiply > 0, kind
    assert record.call_overhead is not None
    assert record.call_overhead.all < counted["edge_int8_onnx"].all


def test_attack(target: EmulatedTarget, tiny: Tiny, tmp_path: Path) -> None:
    bundle, splits = tiny
    recipe = msgspec.structs.replace(
        bundle.manifest.recipe.attack, levels=("A0", "A1"), max_epochs=1, controls=()
    )
    record = attack_bundle(bundle, splits, recipe, tmp_path / "cache", None, target=target)
    assert record.target == target.record
    assert record.skipped == ()
    drift = [g for g in record.drift if g.name in ("export_drift_A0", "export_drift_A1")]
    edges = bundle.edges("int8")
    assert len(drift) == 2 * len(edges) >= 10
    # An INT8 .ort cannot be computed rightly by an x86 host without VNNI: ARM's outputs teach.
    taught_there = {one.name for one in record.artifacts if one.trained_on == "target"}
    ort = {artifact.name for artifact in edges if artifact.format == "ort"}
    assert taught_there == (ort if needs_precise_mode() else set())
    assert not [g for g in failed_gates(record) if g.name.startswith("export_drift")]


@pytest.mark.skipif("pte" not in FORMATS, reason="the extra executorch is missing")
def test_the_runner_of_executorch_takes_batches_and_refuses_what_does_not_fit(
    target: EmulatedTarget, tiny: Tiny
) -> None:
    bundle, _ = tiny
    artifact = bundle.artifact("edge_int8_wire_pte")
    shape = (5, *artifact.input.shape)
    batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    here = runtime_for(artifact).load(bundle, artifact).run(batch)
    with target.counting("executorch") as (session, counts):
        loaded = send(session, bundle.read(artifact), artifact, "xnnpack")
        assert np.array_equal(loaded.run(batch), here)
        for other in ([5, 3, 32, 31], [0, 3, 32, 32], [3, 32, 32], []):
            with pytest.raises(ArtifactError, match="not the shape"):
                session.ask({"do": "run", "id": loaded.id, "shape": other}, batch.tobytes())
        with pytest.raises(ArtifactError, match="of one image"):
            loaded.count(batch, first=0, warmup=0, runs=1)
        assert counts.read_text(encoding="ascii") == ""
        loaded.count(batch[2:3], first=7, warmup=1, runs=2)
        marks = parse_marks(counts.read_text(encoding="ascii"))
        assert [mark.number for mark in marks] == [7, 8, 9]
        assert np.array_equal(loaded.run(batch[2:3]), here[2:3])
        loaded.drop()
        with pytest.raises(ArtifactError, match="nothing is loaded"):
            loaded.run(batch)
        data = bundle.read(artifact)
        for length in (0, 7, 64, len(data) // 2):
            with pytest.raises(ArtifactError, match=f"on {target.record.name}: "):
                send(session, data[:length], artifact, "xnnpack")
