"""Which edges run, and why the others do not: on an emulated target, without starting one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from records.manifest import Artifact, ArtifactFormat, TensorSpec
from runtime_check import availability
from runtime_check.availability import runnable_edges, skipped_artifacts, why_not_here
from runtime_check.targets.emulated import EmulatedTarget

if TYPE_CHECKING:
    from export.bundle import Bundle

FORMATS: tuple[ArtifactFormat, ...] = ("onnx", "torchscript-lite", "ort", "executorch", "litert")


def edge(kind: ArtifactFormat) -> Artifact:
    image = TensorSpec(name="input", shape=(3, 32, 32), dtype="float32")
    return Artifact(
        name=f"edge_{kind}",
        file=f"edge.{kind}",
        format=kind,
        role="edge",
        precision="int8",
        boundary="float",
        sha256="0" * 64,
        size=1,
        weight_bytes=1,
        input=image,
        output=image,
    )


def bundle() -> Bundle:
    edges = tuple(edge(kind) for kind in FORMATS)
    return cast("Bundle", SimpleNamespace(edges=lambda _precision=None: edges))


def emulated(*parts: str) -> EmulatedTarget:
    # Made without its runners: what it lacks is known before anything runs there.
    target = EmulatedTarget.__new__(EmulatedTarget)
    has: dict[str, dict[str, str]] = {part: {} for part in parts}
    target.__dict__.update(_optional=has, _record=SimpleNamespace(name="cortex-a72"))
    return target


def test_every_format_runs_on_a_target_that_has_all_parts() -> None:
    target = emulated("lite", "executorch", "litert")
    assert [a.format for a in runnable_edges(bundle(), "int8", target)] == list(FORMATS)
    assert skipped_artifacts(bundle(), target) == ()


@pytest.mark.parametrize(
    ("kind", "part"),
    [("torchscript-lite", "lite"), ("executorch", "executorch"), ("litert", "litert")],
)
def test_a_target_without_a_part_says_how_to_get_it(kind: str, part: str) -> None:
    target = emulated(*({"lite", "executorch", "litert"} - {part}))
    running = [a.format for a in runnable_edges(bundle(), "int8", target)]
    assert running == [name for name in FORMATS if name != kind]
    (skipped,) = skipped_artifacts(bundle(), target)
    assert skipped.artifact == f"edge_{kind}"
    assert skipped.reason.endswith(f"run: edgeveil target prepare cortex-a72 --with {part}")


def test_a_format_that_no_runner_knows_is_named() -> None:
    assert "fx-graph" in str(emulated("lite").missing(edge("fx-graph")))


@pytest.mark.parametrize(
    ("absent", "kind", "says"),
    [
        ({"torch"}, "torchscript-lite", "torch is not installed; run: pip install '.[export]'"),
        ({"torch"}, "executorch", "torch is not installed; run: pip install '.[export]'"),
        (
            {"torch", "executorch"},
            "executorch",
            "executorch and torch are not installed; run: pip install '.[executorch,export]'",
        ),
        ({"ai_edge_litert"}, "litert", "litert is not installed; run: pip install '.[litert]'"),
        ({"torch", "executorch", "ai_edge_litert"}, "onnx", None),
        ({"torch", "executorch", "ai_edge_litert"}, "ort", None),
    ],
)
def test_what_a_format_lacks_is_said_with_its_extra(
    absent: set[str], kind: ArtifactFormat, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = object()
    monkeypatch.setattr(availability, "needs_precise_mode", lambda: False)
    monkeypatch.setattr(
        availability, "find_spec", lambda name: None if name in absent else installed
    )
    reason = why_not_here(edge(kind))
    assert reason is None if says is None else reason is not None and reason.endswith(says)
