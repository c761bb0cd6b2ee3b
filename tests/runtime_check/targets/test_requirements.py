"""The requirements of a device: pinned, complete, the same as the emulated targets'."""

from __future__ import annotations

import re
from importlib.metadata import requires

import pytest

from runtime_check.targets.requirements import packages_id, pins, requirements
from runtime_check.targets.wheels import RUNTIME_WHEELS


def _name(text: str) -> str:
    return re.split(r"[ ;<>=!~\[(]", text)[0].replace("_", "-").replace(".", "-").lower()


def _needs(distribution: str) -> set[str]:
    return {_name(one) for one in requires(distribution) or () if "extra ==" not in one}


def test_versions_and_hashes_are_those_of_the_emulated_targets() -> None:
    known = {pin.distribution: pin for pin in pins(["onnx"])}
    for wheel in RUNTIME_WHEELS:
        assert known[wheel.distribution].version == wheel.version
        assert known[wheel.distribution].sha256[0] == wheel.sha256


def test_every_dependency_is_pinned() -> None:
    # pip --require-hashes refuses what is not named.
    known = {pin.distribution for pin in pins(["onnx"])}
    assert _needs("onnxruntime") <= known
    assert all(_needs(name) <= known for name in known if name in ("numpy", "protobuf"))


def test_litert_comes_with_a_tflite_only() -> None:
    without, with_it = set(pins(["onnx"])), set(pins(["onnx", "litert"]))
    assert {pin.distribution for pin in with_it - without} >= {"ai-edge-litert", "ml-dtypes"}
    assert packages_id(requirements(["onnx"])) != packages_id(requirements(["litert"]))


@pytest.mark.parametrize("formats", [["onnx"], ["onnx", "litert"]])
def test_the_file_is_as_pip_reads_it(formats: list[str]) -> None:
    text = requirements(formats).decode()
    joined = text.replace("\\\n", " ").splitlines()[1:]
    assert len(joined) == len(pins(formats))
    line = re.compile(r"[a-z0-9-]+==[0-9.]+( +--hash=sha256:[0-9a-f]{64})+")
    assert all(line.fullmatch(one) for one in joined)
