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


def emulated(*, lite: bool) -> EmulatedTarget:
    # Made without its runner: what it lacks is known before anything runs there.
    target = EmulatedTarget.__new__(EmulatedTarget)
    target.__dict__.update(_lite={} if lite else None, _record=SimpleNamespace(name="cortex-a72"))
    return target


def test_the_added_formats_do_not_run_on_an_emulated_target() -> None:
    target = emulated(lite=True)
    assert [a.format for a in runnable_edges(bundle(), "int8", target)] == list(FORMATS[:2])
    reasons = {s.artifact: s.reason for s in skipped_artifacts(bundle(), target)}
    assert list(reasons) == [f"edge_{kind}" for kind in FORMATS[2:]]
    assert all(name.removeprefix("edge_") in reason for name, reason in reasons.items())


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
    monkeypatch.setattr(
        availability, "find_spec", lambda name: None if name in absent else installed
    )
    reason = why_not_here(edge(kind))
    assert reason is None if says is None else reason is not None and reason.endswith(says)


def test_a_target_without_torch_says_how_to_get_it() -> None:
    target = emulated(lite=False)
    assert [a.format for a in runnable_edges(bundle(), "int8", target)] == ["onnx"]
    first = skipped_artifacts(bundle(), target)[0]
    assert first.artifact == "edge_torchscript-lite"
    assert "--with lite" in first.reason
