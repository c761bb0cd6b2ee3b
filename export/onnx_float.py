"""A float network as ONNX: the FP32 edge, and the server half."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from export.onnx_graph import BATCH_AXIS, batched, model_bytes
from records import files
from records.errors import ExportError

#: Traced with two images and proved with three, so that a fixed batch size cannot pass.
_TRACED_BATCH = 2
_PROVED_BATCH = 3
#: Largest difference from torch, relative to the largest output (or 1 where all are smaller).
#: Images differ by 1e-5; noise fed to a whole server half by up to 1.4e-4 (torch
#: itself from float64: 0.7e-4).
_RELATIVE_TOLERANCE = 1e-3
_ERRORS_ONLY = 3


def write_float_onnx(
    module: nn.Module,
    input_shape: tuple[int, ...],
    path: Path,
    *,
    opset: int,
    output_name: str,
    input_name: str = "input",
) -> None:
    """Write an FP32 network as one ONNX file with BatchNorm folded and a dynamic batch axis.

    The same module gives the same bytes. The TorchScript-based exporter is used: the newer one
    cannot write opset 17 (it falls back to 18) and takes about 80 times as long. The file is run
    in ONNX Runtime and compared with torch before it gets its name.

    Args:
        module: float32 (N, *input_shape) → one float32 tensor (N, …); not changed.
        input_shape: without the batch axis.
        path: the new file; weights are inside it.
        opset: of the ONNX domain, 17 to 21.
        output_name: of the graph's output.
        input_name: of the graph's input.

    Raises:
        ExportError: an operator cannot be written, the result is not valid ONNX, or it does not
            compute what torch computes.
        OverwriteError: the file exists.
    """
    module = copy.deepcopy(module).eval()
    noise = torch.randn(_PROVED_BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(noise)
    if not isinstance(expected, Tensor):
        raise ExportError(f"{path.name}: the network must return one tensor to be written as ONNX")
    model = _export(module, noise[:_TRACED_BATCH], opset, input_name, output_name)
    # Tracing leaves symbols for axes that are in fact fixed.
    result = batched(output_name, onnx.TensorProto.FLOAT, tuple(expected.shape[1:]))
    model.graph.output[0].CopyFrom(result)
    data = model_bytes(model, path.name)
    _prove(data, noise.numpy(), expected.numpy(), path.name)
    files.write_bytes(path, data)


def _export(
    module: nn.Module, example: Tensor, opset: int, input_name: str, output_name: str
) -> onnx.ModelProto:
    # This exporter takes a stream too; its annotation has only the newer one's paths.
    stream: Any = io.BytesIO()
    with _quiet_torch(), torch.no_grad():
        try:
            torch.onnx.export(
                module,
                (example,),
                stream,
                dynamo=False,
                opset_version=opset,
                input_names=[input_name],
                output_names=[output_name],
                dynamic_axes={input_name: {0: BATCH_AXIS}, output_name: {0: BATCH_AXIS}},
            )
        # The exporter's errors share no base class below Exception.
        except Exception as error:
            raise ExportError(f"the network cannot be written as ONNX: {error}") from error
    return onnx.load_model_from_string(stream.getvalue())


def _prove(
    data: bytes, batch: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], name: str
) -> None:
    """Refuse a model that does not compute what torch computed, with another batch size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: batch})[0]
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        raise ExportError(f"{name} does not run in ONNX Runtime: {error}") from error
    if found.shape != expected.shape:
        raise ExportError(f"{name} returns {found.shape} in ONNX Runtime, torch {expected.shape}")
    largest = float(np.abs(expected).max())
    difference = float(np.abs(found - expected).max())
    if not difference <= _RELATIVE_TOLERANCE * max(largest, 1.0):
        raise ExportError(
            f"{name} differs from torch by {difference:.3g} in ONNX Runtime, where the largest "
            f"value is {largest:.3g}; report this"
        )


@contextmanager
def _quiet_torch() -> Iterator[None]:
    # The exporter says on every call that it is deprecated, and tracing that sizes are fixed: both
    # known; the versions are pinned and the dynamic batch axis is proved afterwards.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
