"""Runs artifacts where they are to run: a program for Python 3.11 with numpy and a runtime.

It imports nothing of edgeveil, so a target needs no more than this file. It answers requests on
standard input, one after the other, until the input ends:

    request   one line of JSON, then as many bytes as its ``bytes`` says
    answer    one line of JSON, then as many bytes as its ``bytes`` says; ``error`` when it failed

Requests, by ``do``: ``hello`` (what is here), ``load`` (an artifact's bytes under an ``id``),
``run`` (a batch, float32 C order, through an ``id``; the answer is the output, C order), ``count``
(the same batch several times, with a mark for the instruction counter around each), ``drop``,
``optimized`` (of an ONNX model's bytes: the answer is the model as the runtime executes it),
``profile`` (of the same: the answer is the runtime's own profile of one run on zeros).
"""

from __future__ import annotations

import abc
import ctypes
import functools
import gc
import importlib.metadata
import io
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

PROTOCOL = "edgeveil.runner/1"
MARK_CALL = 7777
_MAX_LINE = 65536
_PAGE = 4096
_DISTRIBUTIONS = ("numpy", "onnxruntime", "torch", "ai-edge-litert")


class Model(abc.ABC):
    """A loaded artifact."""

    @abc.abstractmethod
    def run(self, batch: Any) -> Any:
        """Return the output of float32 (N, …) as a numpy array."""

    def inference(self, batch: Any) -> Callable[[], object]:
        """Return one inference of a batch, float32 (N, …), to be counted."""
        return functools.partial(self.run, batch)


class OnnxModel(Model):
    """An ONNX model in ONNX Runtime, from an ``.onnx`` or an ``.ort`` file."""

    def __init__(self, data: bytes, request: dict[str, Any]) -> None:
        """Open a session; ``mode`` as in `records.parity.Mode`."""
        self._session = _onnx_session(data, _onnx_options(request))
        self._outputs, self._input = [request["output"]], request["input"]

    def run(self, batch: Any) -> Any:
        """Return the output of float32 (N, …) as a numpy array."""
        return self._session.run(self._outputs, {self._input: batch})[0]

    def inference(self, batch: Any) -> Callable[[], object]:
        """Return one inference of a batch, its input and output bound once, as an app would.

        Names and arrays would otherwise pass through Python anew each time, which would count.
        """
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input, batch)
        binding.bind_output(self._outputs[0])
        return functools.partial(self._session.run_with_iobinding, binding)


def _onnx_options(request: dict[str, Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if request["mode"] == "optimizations-off":
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    elif request["mode"] == "precise":
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _onnx_session(data: bytes, options: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class LiteModel(Model):
    """A TorchScript Lite program under qnnpack."""

    def __init__(self, data: bytes, request: dict[str, Any]) -> None:
        """Load the program; ``input`` and ``output`` have no names there."""
        import torch
        from torch.jit.mobile import _load_for_lite_interpreter

        torch.backends.quantized.engine = "qnnpack"
        torch.set_num_threads(request["threads"])
        self._torch = torch
        self._module = _load_for_lite_interpreter(io.BytesIO(data))  # type: ignore[no-untyped-call]

    def run(self, batch: Any) -> Any:
        """Return the output of float32 (N, …) as a numpy array.

        Raises:
            TypeError: the program returned anything but one plain tensor.
        """
        with self._torch.inference_mode():
            output = self._module(self._torch.from_numpy(batch))
        if not isinstance(output, self._torch.Tensor) or output.is_quantized:
            raise TypeError("the program did not return one plain tensor")
        return output.contiguous().numpy()


class LitertModel(Model):
    """A LiteRT model under XNNPACK, which its interpreter takes by default."""

    def __init__(self, data: bytes, request: dict[str, Any]) -> None:
        """Open an interpreter; a file of edgeveil has one input and one output."""
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=data, num_threads=request["threads"])
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._batch = 1

    def run(self, batch: Any) -> Any:
        """Return the output of float32 (N, …) as a numpy array."""
        if len(batch) != self._batch:
            self._interpreter.resize_tensor_input(self._input, batch.shape)
            self._interpreter.allocate_tensors()
            self._batch = len(batch)
        self._interpreter.set_tensor(self._input, batch)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


Requests = io.FileIO | io.BytesIO
FORMATS: dict[str, Callable[[bytes, dict[str, Any]], Model]] = {
    "onnx": OnnxModel,
    "ort": OnnxModel,
    "torchscript-lite": LiteModel,
    "litert": LitertModel,
}


class Runner:
    """The loaded artifacts, and the answers to requests."""

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._models: dict[str, Any] = {}

    def answer(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Return header and bytes of the answer to one request.

        Raises:
            KeyError: the request is unknown or lacks a key.
        """
        work = {
            "hello": self._hello,
            "load": self._load,
            "run": self._run,
            "count": self._count,
            "drop": self._drop,
            "optimized": _optimized,
            "profile": _profile,
        }
        return work[request["do"]](request, data)

    def _hello(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        versions = {"python": platform.python_version()}
        for name in _DISTRIBUTIONS:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        for module in request.get("import", ()):
            __import__(module)
        found = {"protocol": PROTOCOL, "machine": platform.machine(), "versions": versions}
        return found | {"system": platform.system(), "release": platform.release()}, b""

    def _load(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        self._models[request["id"]] = FORMATS[request["format"]](data, request)
        return {}, b""

    def _drop(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        del self._models[request["id"]]
        return {}, b""

    def _run(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        output = np.ascontiguousarray(self._models[request["id"]].run(_batch(request, data)))
        header = {"dtype": str(output.dtype), "shape": list(output.shape)}
        return header, output.tobytes()

    def _count(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        infer = self._models[request["id"]].inference(_batch(request, data))
        system_call = ctypes.CDLL(None).syscall
        for _ in range(request["warmup"]):
            infer()
        gc.collect()
        gc.disable()
        try:
            for number in range(request["first"], request["first"] + request["inferences"]):
                system_call(MARK_CALL, ctypes.c_uint64(number))
                infer()
            system_call(MARK_CALL, ctypes.c_uint64(number + 1))
        finally:
            gc.enable()
        return {}, b""


def _optimized(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        options, target = _onnx_options(request), Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(target)
        _onnx_session(data, options)
        return {}, target.read_bytes()


def _profile(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as folder:
        options = _onnx_options(request)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = _onnx_session(data, options)
        batch = np.zeros(request["shape"], np.float32)
        session.run([request["output"]], {request["input"]: batch})
        return {}, Path(session.end_profiling()).read_bytes()


def _batch(request: dict[str, Any], data: bytes) -> Any:
    # A copy, as torch wants memory that it may write to, and at the start of a page, as copies of
    # other alignment take more instructions.
    memory = np.empty(len(data) + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    memory[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return memory[start : start + len(data)].view(np.float32).reshape(request["shape"])


def serve(requests: Requests, answers: BinaryIO) -> None:
    """Answer requests until there are no more; a failed one is answered with its error.

    Args:
        requests: unbuffered. What a pipe gives at once depends on the time, and would, by way of
            buffers of other sizes, show in the counts of instructions.
        answers: where to.

    Raises:
        EOFError: the input ended in the middle of a request.
    """
    runner = Runner()
    while line := _line(requests):
        request = json.loads(line)
        data = _exactly(requests, request.get("bytes", 0))
        try:
            header, payload = runner.answer(request, data)
        # Whatever a runtime raises is the answer: the other side names it and decides.
        except Exception as error:
            first = (str(error).strip() or "no message").splitlines()[0][:2000]
            header, payload = {"error": f"{type(error).__name__}: {first}"}, b""
        answers.write(json.dumps(header | {"bytes": len(payload)}).encode() + b"\n" + payload)
        answers.flush()


def _line(source: Requests) -> bytes:
    line, one = bytearray(), bytearray(1)
    while len(line) < _MAX_LINE and source.readinto(one):
        line += one
        if line.endswith(b"\n"):
            break
    return bytes(line)


def _exactly(source: Requests, count: int) -> bytes:
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        got = source.readinto(view[done:])
        if not got:
            raise EOFError(f"the request ended after {done} of {count} bytes")
        done += got
    return bytes(data)


def main() -> None:
    """Serve on the standard streams; whatever a runtime prints goes to standard error."""
    # ONNX Runtime from 1.29 on sends telemetry, and leaves a device id in the home folder, unless
    # it is told not to before it is imported (https://github.com/microsoft/onnxruntime/pull/27379).
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(io.FileIO(0), answers)


if __name__ == "__main__":
    main()
