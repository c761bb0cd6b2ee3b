"""The C++ runner of ExecuTorch by itself: what it refuses, and that it goes on afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from records.errors import ArtifactError
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import Guest
from runtime_check.targets.emulator import find_emulator
from runtime_check.targets.session import RunnerSession
from runtime_check.targets.wheels import EXECUTORCH_WHEELS
from tests.arm.arm_targets import prepared

pytestmark = [pytest.mark.arm, pytest.mark.slow]


@pytest.fixture
def runner() -> Iterator[RunnerSession]:
    root, emulator = prepared("cortex-a76"), find_emulator()
    assert emulator is not None
    session = Guest(CPUS["cortex-a76"], root, emulator).session("executorch")
    yield session
    session.close()


def test_it_says_what_it_is(runner: RunnerSession) -> None:
    hello = runner.hello()
    assert hello.machine == "aarch64"
    assert hello.versions["executorch"] == EXECUTORCH_WHEELS[0].version


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"do": "dance"}, "dance is unknown"),
        ({"do": "run", "id": "m", "shape": [1]}, "nothing is loaded as m"),
        ({"do": "drop", "id": 'a "name" \\ of \n two lines'}, "nothing is loaded as a"),
        ({"do": "load", "id": "m", "format": "onnx"}, "runs executorch only"),
        ({"do": "load", "id": "m", "format": "executorch"}, "no number threads"),
        ({"do": "load", "id": "m", "format": "executorch", "threads": 0}, "threads is not"),
        ({"do": "load", "id": "m", "format": "executorch", "threads": 1}, "no program"),
    ],
)
def test_what_it_does_not_understand_is_answered(
    runner: RunnerSession, request_: dict[str, object], reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        runner.ask(request_)
    assert runner.hello().machine == "aarch64"


@pytest.mark.parametrize("request_", [{"import": ["torch"]}, {"x": 1.5}, {"x": None}, {"x": {}}])
def test_a_request_that_is_not_of_the_protocol_ends_it(
    runner: RunnerSession, request_: dict[str, object]
) -> None:
    with pytest.raises(ArtifactError, match=r"broke off \(exit code 1\); it said: "):
        runner.ask({"do": "hello"} | request_)
