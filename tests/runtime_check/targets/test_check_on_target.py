"""A whole check whose artifacts run behind the runner: on this machine, without an emulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from attack.campaign import BASELINE
from attack.evaluate import attack_bundle
from attack.features import EAGER
from records.attack import failed_gates, training_sentence
from records.codec import without_timings
from records.errors import ArtifactError, UnsupportedHereError
from runtime_check.check import check_bundle
from runtime_check.gates import failed
from runtime_check.machine import is_x86, needs_precise_mode
from runtime_check.targets import runner
from runtime_check.targets.target import Target
from tests.runtime_check.targets.here import Here
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
    from records.manifest import Artifact
    from records.parity import Mode
    from runtime_check.runtime import LoadedArtifact, Runtime


#: Those that ``runner.py`` runs, with a runtime of this installation, and rightly on this CPU.
FORMATS = (
    *("ptl", "onnx"),
    *(() if needs_precise_mode() else ("ort",)),
    *(("tflite",) if find_spec("ai_edge_litert") else ()),
)


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> tuple[Bundle, ImageSplits]:
    model = with_varied_classes(tiny_model, tiny_images)
    return tiny_bundle(tmp_path_factory.mktemp("on_target"), model, tiny_images, 8, FORMATS)


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    with Here() as target:
        yield target


def test_the_fake_target_keeps_the_protocol(here: Here) -> None:
    target: Target = here
    assert target.emulated


def test_what_runs_there_is_judged_as_what_runs_here(
    tiny: tuple[Bundle, ImageSplits], here: Here
) -> None:
    bundle, splits = tiny
    there, local = (check_bundle(bundle, splits.victim, target=target) for target in (here, None))
    assert there.passed
    assert there.target == here.record
    assert there.skipped == ()
    mine = {(row.artifact, row.mode): row for row in local.artifacts}
    for row in there.artifacts:
        assert row.lsb == mine[row.artifact, row.mode].lsb
        assert row.accuracy == mine[row.artifact, row.mode].accuracy


def test_the_host_stands_beside_it(tiny: tuple[Bundle, ImageSplits], here: Here) -> None:
    bundle, splits = tiny
    record = check_bundle(bundle, splits.victim, target=here)
    local = {(r.artifact, r.mode): r for r in check_bundle(bundle, splits.victim).artifacts}
    assert {row.artifact for row in record.host} == {a.name for a in bundle.edges("int8")}
    for row in record.host:
        assert row.host_from_eager == local[row.artifact, row.host_mode].lsb
        if row.mode == row.host_mode:
            assert row.from_host.share_identical == 1.0
    assert {pair.artifact for pair in record.host_fp32} == {a.name for a in bundle.edges("fp32")}
    assert all(pair.parity_sqnr_db is None for pair in record.host_fp32)
    # The target's FP32 edge has a gate against the host's.
    gates = [g for g in record.gates if g.name == "fp32_parity_sqnr_db"]
    assert {g.artifact for g in gates} == {a.name for a in bundle.edges("fp32")}
    exact = {g.artifact for g in record.gates if g.name == "target_max_lsb_from_host"}
    assert exact == {"edge_int8_lite", "edge_int8_wire_lite"}


@dataclass(frozen=True)
class _Precise:
    """A target that ships ONNX Runtime's precise mode, as a device on x86 without VNNI does."""

    here: Here

    def __getattr__(self, name: str) -> Any:
        return getattr(self.here, name)

    def modes(self, artifact: Artifact) -> tuple[Mode, ...]:
        modes = self.here.modes(artifact)
        return ("precise", *modes[1:]) if len(modes) > 1 else modes


@pytest.mark.skipif(not is_x86(), reason="the precise mode is of x86")
def test_every_mode_of_the_host_stands_beside_a_precise_target(
    tiny: tuple[Bundle, ImageSplits], here: Here
) -> None:
    bundle, splits = tiny
    record = check_bundle(bundle, splits.victim.take(np.arange(8)), target=_Precise(here))
    modes = {(r.mode, r.host_mode) for r in record.host if r.artifact == "edge_int8_onnx"}
    assert modes == {
        ("precise", "precise"),
        ("precise", "default"),
        ("optimizations-off", "optimizations-off"),
    }


def test_a_wrong_artifact_fails_there_too(
    tiny: tuple[Bundle, ImageSplits],
    here: Here,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path: Path,
) -> None:
    bundle, splits = tiny
    wrong, _ = tiny_bundle(tmp_path / "wrong", wrong_weights(tiny_model), tiny_images)
    name = "edge_int8_onnx"
    bad = replaced(bundle, tmp_path / "bad", name, wrong.path(wrong.artifact(name)))
    evidence = tmp_path / "evidence.npz"
    record = check_bundle(bad, splits.victim, target=here, evidence=evidence)
    missed = {(gate.name, gate.artifact) for gate in failed(record.gates)}
    assert ("onnx_share_within_1_lsb", name) in missed
    assert not any(artifact == "edge_int8_lite" for _, artifact in missed)
    assert evidence.exists()


def test_what_does_not_run_there_is_listed(tiny: tuple[Bundle, ImageSplits]) -> None:
    bundle, splits = tiny
    with Here(lacks=("torchscript-lite",)) as target:
        record = check_bundle(bundle, splits.victim, target=target)
    assert record.passed
    lite = {a.name for a in bundle.edges() if a.format == "torchscript-lite"}
    assert {skip.artifact for skip in record.skipped} == lite
    assert {skip.reason for skip in record.skipped} == {"no torchscript-lite here"}
    assert not lite & {row.artifact for row in record.artifacts}


def test_nothing_to_run_is_unsupported(tiny: tuple[Bundle, ImageSplits], tmp_path: Path) -> None:
    bundle, splits = tiny
    recipe = bundle.manifest.recipe.attack
    with Here(lacks=tuple(runner.FORMATS)) as target:
        with pytest.raises(UnsupportedHereError, match="no onnx here"):
            check_bundle(bundle, splits.victim, target=target)
        with pytest.raises(UnsupportedHereError, match="no onnx here"):
            attack_bundle(bundle, splits, recipe, tmp_path / "cache", None, target=target)


def test_an_output_that_is_not_the_manifests_is_refused(
    tiny: tuple[Bundle, ImageSplits], here: Here, tmp_path: Path
) -> None:
    bundle, splits = tiny
    wire = bundle.artifact("edge_int8_wire_onnx")
    bad = replaced(bundle, tmp_path / "bad", "edge_int8_onnx", bundle.path(wire))
    with pytest.raises(ArtifactError, match="edge_int8_onnx returned uint8"):
        check_bundle(bad, splits.victim, target=here)


def test_an_attack_on_outputs_of_the_target(
    tiny: tuple[Bundle, ImageSplits], here: Here, tmp_path: Path
) -> None:
    bundle, splits = tiny
    recipe = msgspec.structs.replace(
        bundle.manifest.recipe.attack, levels=("A0", "A1"), max_epochs=1, controls=()
    )
    there, local = (
        attack_bundle(bundle, splits, recipe, tmp_path / "cache", None, target=target)
        for target in (here, None)
    )
    assert (there.target, there.trained_on, there.skipped) == (here.record, "host", ())
    # The same kernels behind the runner: the same outputs, and so the same figures.
    assert [a.features_sha256 for a in there.artifacts] == [
        a.features_sha256 for a in local.artifacts
    ]
    assert without_timings(there.verdicts) == without_timings(local.verdicts)
    assert not [g for g in failed_gates(there) if g.name.startswith("export_drift")]


def test_what_the_host_does_not_run_is_learned_from_the_target(
    tiny: tuple[Bundle, ImageSplits], here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, splits = tiny
    name = "edge_int8_wire_onnx"
    recipe = msgspec.structs.replace(
        bundle.manifest.recipe.attack, levels=("A0", "A1"), max_epochs=1, artifacts=(name,)
    )
    local = attack_bundle(bundle, splits, recipe, tmp_path / "cache", None)

    def why_not(artifact: Artifact) -> str | None:
        return "not on this host" if artifact.name == name else None

    for module in ("features", "campaign"):
        monkeypatch.setattr(f"attack.{module}.why_not_here", why_not)
    with pytest.raises(UnsupportedHereError, match="not on this host"):
        attack_bundle(bundle, splits, recipe, tmp_path / "other", None)
    # Another cache: what the host computed before must not be found there.
    there = attack_bundle(bundle, splits, recipe, tmp_path / "other", None, target=here)
    trained_on = {one.name: one.trained_on for one in there.artifacts}
    assert trained_on == {BASELINE: "host", EAGER: "host", name: "target"}
    assert f"of {name} the target's" in training_sentence(there)
    assert "target's" not in training_sentence(local)
    hashes = [[one.features_sha256 for one in record.artifacts] for record in (there, local)]
    assert hashes[0] == hashes[1]
    assert without_timings(there.verdicts) == without_timings(local.verdicts)


@dataclass(frozen=True)
class Reversed:
    """What another runtime loaded, with its channels in the reverse order: a kernel at fault."""

    inner: LoadedArtifact

    @property
    def mode(self) -> Mode:
        return self.inner.mode

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self.inner.run(batch)[:, ::-1])


@dataclass(frozen=True)
class Faulty:
    inner: Runtime

    @property
    def name(self) -> str:
        return self.inner.name

    def load(self, bundle: Bundle, artifact: Artifact, *, threads: int = 1) -> Reversed:
        return Reversed(self.inner.load(bundle, artifact, threads=threads))


class FaultyOnnx(Here):
    """A target whose kernels are wrong for one artifact."""

    def runtime(self, artifact: Artifact, mode: Mode | None = None) -> Runtime:
        found = super().runtime(artifact, mode)
        return Faulty(found) if artifact.name == "edge_int8_onnx" else found


def test_wrong_kernels_show_as_drift(tiny: tuple[Bundle, ImageSplits], tmp_path: Path) -> None:
    bundle, splits = tiny
    recipe = msgspec.structs.replace(
        bundle.manifest.recipe.attack, levels=("A0", "A1"), max_epochs=1, controls=()
    )
    with FaultyOnnx() as target:
        record = attack_bundle(bundle, splits, recipe, tmp_path / "cache", None, target=target)
    drifted = {g.artifact for g in failed_gates(record) if g.name.startswith("export_drift")}
    assert drifted == {"edge_int8_onnx"}
    assert not record.passed
