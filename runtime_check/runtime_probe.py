"""Run in a fresh process by ``runtime_check.doctor``: does a runtime really compute here?

A wheel can be installed and still die at import (a CPU without an instruction that it uses).
``python -P -m runtime_check.runtime_probe ort|lite`` prints one line on success.
"""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np

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
        print({"ort": probe_ort, "lite": probe_lite}[arguments[0]]())
    # Whatever a broken installation raises is the answer.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"{type(error).__name__}: {first}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
