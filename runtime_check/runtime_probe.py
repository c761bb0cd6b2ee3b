"""Run in a fresh process by ``runtime_check.doctor``: does a runtime really compute here?

A wheel can be installed and still die at import (a CPU without an instruction that it uses).
``python -P -m runtime_check.runtime_probe ort|lite|executorch|litert`` prints one line on success.
"""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import numpy.typing as npt

from export.layers import Grid, Layer, LayerGraph, Value
from records.parity import Mode
from runtime_check import saturation_model
from runtime_check.machine import needs_precise_mode


def probe_ort() -> str:
    """Multiply u8 by s8 in ONNX Runtime and say in which modes the result is exact.

    Raises:
        ArithmeticError: it is not, in the mode that edgeveil uses on this machine.
    """
    exact = [mode for mode in ("default", "precise") if _is_exact(mode)]
    used = "precise" if needs_precise_mode() else "default"
    if used not in exact:
        raise ArithmeticError(f"INT8 products saturate in the {used} mode, which is used here")
    if len(exact) == 2:
        return f"runs; INT8 products are exact; mode {used}"
    return f"runs; INT8 products are exact in mode {used} only, which is used"


def probe_lite() -> str:
    """Save, load and run a quantized program in the Lite interpreter under qnnpack.

    Raises:
        ArithmeticError: its result is wrong.
    """
    import torch
    from torch.jit.mobile import _load_for_lite_interpreter

    from runtime_check.torch_scope import torch_scope

    class Doubled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = torch.quantize_per_tensor(x, 0.5, 0, torch.quint8)
            real: torch.Tensor = torch.ops.quantized.add(q, q, 1.0, 0).dequantize()
            return real

    with torch_scope(1), warnings.catch_warnings():
        # torch says of each of these calls that it is deprecated: known, and pinned.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        scripted = torch.jit.script(Doubled().eval())
        saved = scripted._save_to_buffer_for_lite_interpreter()  # type: ignore[no-untyped-call]
        program = io.BytesIO(saved)
        loaded = _load_for_lite_interpreter(program)  # type: ignore[no-untyped-call]
        found = loaded(torch.arange(8, dtype=torch.float32))
    if not torch.equal(found, 2 * torch.arange(8, dtype=torch.float32)):
        raise ArithmeticError(f"a quantized sum of the Lite interpreter is wrong: {found.tolist()}")
    return "runs; engine qnnpack"


def probe_executorch() -> str:
    """Write and run a program that rounds to steps of 0.5, in ExecuTorch with XNNPACK.

    Raises:
        ArithmeticError: its result is wrong.
    """
    import torch
    from executorch.runtime import Runtime

    from export.pte import lower

    # A method whose program is gone reads freed memory.
    program = Runtime.get().load_program(lower(_rounding(), wire=False).data)
    method = program.load_method("forward")
    if method is None:
        raise ArithmeticError("the program that was written has no method forward")
    return _rounded("ExecuTorch", method.execute((torch.from_numpy(_PROBED),))[0].numpy())


def probe_litert() -> str:
    """Write and run a model that rounds to steps of 0.5, in LiteRT with XNNPACK.

    Raises:
        ArithmeticError: its result is wrong.
    """
    from ai_edge_litert.interpreter import Interpreter

    from export.tflite import tflite_bytes

    model = tflite_bytes(_rounding(), boundary="float")
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], _PROBED)
    interpreter.invoke()
    output = interpreter.get_output_details()[0]["index"]
    return _rounded("LiteRT", interpreter.get_tensor(output))


#: (1, 8) float32; none lies between two steps of 0.5.
_PROBED = np.array([[-1.6, -1.1, -0.3, 0.0, 0.2, 0.6, 1.1, 1.9]], np.float32)


def _rounding() -> LayerGraph:
    image = Value("input", (8,))
    rounded = Value("rounded", (8,), Grid(0.5, 128))
    return LayerGraph(image, (Layer("quantize", "quantize", (image,), rounded),), rounded)


def _rounded(name: str, found: npt.NDArray[np.float32]) -> str:
    if not np.array_equal(found, np.rint(_PROBED * 2) / 2):
        raise ArithmeticError(f"{name} rounds to steps of 0.5 wrongly: {found.tolist()}")
    return "runs; XNNPACK"


_PROBES = {
    "ort": probe_ort,
    "lite": probe_lite,
    "executorch": probe_executorch,
    "litert": probe_litert,
}


def _is_exact(mode: Mode) -> bool:
    import onnxruntime

    from runtime_check.ort import session_options

    session = onnxruntime.InferenceSession(
        saturation_model.saturation_model(),
        session_options(mode, 1),
        providers=["CPUExecutionProvider"],
    )
    a = np.full((saturation_model.ROWS, saturation_model.DEPTH), saturation_model.A, np.uint8)
    return bool((session.run(["y"], {"a": a})[0] == saturation_model.EXPECTED).all())


def main(arguments: list[str]) -> int:
    """Probe the runtime named on the command line; the answer on stdout, a failure on stderr."""
    try:
        print(_PROBES[arguments[0]]())
    # Whatever a broken installation raises is the answer.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"{type(error).__name__}: {first}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
