"""The conversation with a runner: the real one on this machine, and processes that misbehave."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from records.errors import ArtifactError, UnsupportedHereError
from runtime_check import saturation_model
from runtime_check.onnx_bytes import identity_model
from runtime_check.targets import session as session_module
from runtime_check.targets.session import RunnerSession
from tests.runtime_check.targets.here import session

SHAPE = (3, 4, 5)


@pytest.fixture
def runner() -> Iterator[RunnerSession]:
    one = session()
    yield one
    one.close()


def load(runner: RunnerSession, data: bytes, **changes: object) -> None:
    request = {"do": "load", "id": "m", "format": "onnx", "mode": "default", "threads": 1}
    runner.ask(request | {"input": "x", "output": "y"} | changes, data)


def run(runner: RunnerSession, x: Any, largest: int = 10**6) -> Any:
    batch = np.asarray(x, np.float32)
    request = {"do": "run", "id": "m", "shape": list(batch.shape)}
    answer, data = runner.ask(request, batch.tobytes(), largest=largest)
    return np.frombuffer(data, answer.dtype).reshape(answer.shape)


def test_it_says_what_it_is(runner: RunnerSession) -> None:
    hello = runner.hello(("onnxruntime",))
    assert hello.versions["numpy"] == np.__version__
    assert hello.machine


def test_a_batch_goes_there_and_back_bit_for_bit(runner: RunnerSession) -> None:
    load(runner, identity_model(SHAPE))
    x = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    assert np.array_equal(run(runner, x), x)


def test_it_survives_its_errors(runner: RunnerSession) -> None:
    with pytest.raises(ArtifactError, match="on here: "):
        load(runner, b"no model")
    with pytest.raises(ArtifactError, match="KeyError"):
        run(runner, np.zeros((1, *SHAPE)))
    with pytest.raises(ArtifactError, match="KeyError"):
        runner.ask({"do": "dance"})
    load(runner, identity_model(SHAPE))
    with pytest.raises(ArtifactError, match="on here: "):
        run(runner, np.zeros((1, 2, 2, 2)))
    assert np.asarray(run(runner, np.ones((1, *SHAPE)))).sum() == 60
    runner.ask({"do": "drop", "id": "m"})
    with pytest.raises(ArtifactError, match="KeyError"):
        run(runner, np.zeros((1, *SHAPE)))


def test_an_output_larger_than_asked_for_is_not_read(runner: RunnerSession) -> None:
    load(runner, identity_model(SHAPE))
    with pytest.raises(ArtifactError, match="240 bytes where 239 are expected"):
        run(runner, np.zeros((1, *SHAPE)), largest=239)


def test_counting_runs_the_model_and_makes_unknown_system_calls(runner: RunnerSession) -> None:
    load(runner, identity_model(SHAPE))
    data = np.zeros((1, *SHAPE), np.float32).tobytes()
    request = {"do": "count", "id": "m", "shape": [1, *SHAPE], "first": 0, "warmup": 1}
    answer, _ = runner.ask(request | {"inferences": 2}, data)
    assert answer.bytes == 0


def test_quantized_products_are_those_of_the_saturation_model(runner: RunnerSession) -> None:
    # The runner sends float batches; the model wants uint8: the refusal comes back as an error.
    load(runner, saturation_model.saturation_model(), input="a", output="y")
    with pytest.raises(ArtifactError, match="on here: "):
        run(runner, np.zeros((saturation_model.ROWS, saturation_model.DEPTH)))


ANSWERS = {
    "no JSON": ("print('hello', flush=True); input()", "answered b'hello"),
    "a list": ("print('[]', flush=True); input()", "answered b'"),
    "too many bytes": ("print('{\"bytes\": 5}', flush=True); input()", "5 bytes where 0"),
    "negative bytes": ("print('{\"bytes\": -1}', flush=True); input()", "-1 bytes where 0"),
    "an endless line": ("print('x' * 70000, flush=True); input()", "without end"),
    "nothing": ("import sys; sys.exit('no such instruction')", "it said: no such instruction"),
    "killed": ("import os; os.kill(os.getpid(), 4)", "exit code -4"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_process_that_does_not_keep_to_the_protocol_is_named(kind: str) -> None:
    code, message = ANSWERS[kind]
    one = session(sys.executable, "-c", f"input(); {code}", name="board")
    with pytest.raises(ArtifactError, match="runner on board") as caught:
        one.ask({"do": "hello"})
    assert message in str(caught.value)
    one.close()


def test_another_protocol_is_unsupported() -> None:
    code = 'input(); print(\'{"protocol": "other/9"}\', flush=True); input()'
    one = session(sys.executable, "-c", code)
    with pytest.raises(UnsupportedHereError, match="speaks other/9"):
        one.hello()
    one.close()


def test_a_runtime_that_is_not_there_is_unsupported(runner: RunnerSession) -> None:
    with pytest.raises(UnsupportedHereError, match="no_such_runtime"):
        runner.hello(("no_such_runtime",))


def test_a_silent_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "ANSWER_SECONDS", 0.2)
    one = session(sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(ArtifactError, match="no answer within"):
        one.ask({"do": "hello"})
    one.close()


def test_a_program_that_is_not_there_is_unsupported() -> None:
    with pytest.raises(UnsupportedHereError, match="No such file"):
        session("/no/such/program")
