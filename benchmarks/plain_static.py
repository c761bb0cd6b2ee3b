"""The plain INT8 export of a float ONNX edge: ``onnxruntime.quantization.quantize_static``.

The recipe that ONNX Runtime documents for CPUs: pre-processing, QDQ format, int8 weights with one
scale an output channel, activations int8 (the default, advised for ARM) or uint8
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from records.errors import ExportError

TOOL = "onnxruntime.quantization.quantize_static"
Activations = Literal["int8", "uint8"]
_TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
_BATCH = 32


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Shows preprocessed images to the calibrator in batches."""

    def __init__(self, name: str, images: npt.NDArray[np.float32]) -> None:
        self._feeds: Iterator[dict[str, Any]] = (
            {name: images[start : start + _BATCH]} for start in range(0, len(images), _BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def plain_static(
    fp32: bytes, input_name: str, images: npt.NDArray[np.float32], activations: Activations
) -> bytes:
    """Quantize a float ONNX model as ONNX Runtime's documentation says.

    Args:
        fp32: the whole ``.onnx`` file.
        input_name: of its only input.
        images: preprocessed calibration images, float32 (N, C, H, W).
        activations: their integer type.

    Returns:
        The whole ``.onnx`` file, with float input and output.

    Raises:
        ExportError: there are no images, or ONNX Runtime cannot quantize the model.
    """
    if len(images) == 0:
        raise ExportError("there are no calibration images for quantize_static")
    with tempfile.TemporaryDirectory(prefix="edgeveil-static-") as folder:
        source, prepared, target = (Path(folder) / f"{name}.onnx" for name in ("a", "b", "c"))
        source.write_bytes(fp32)
        try:
            quant_pre_process(source, prepared)
            quantize_static(
                prepared,
                target,
                _Images(input_name, images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=_TYPES[activations],
                weight_type=QuantType.QInt8,
            )
        # The tool's errors share no base class below Exception.
        except Exception as error:
            raise ExportError(f"quantize_static refuses the float edge: {error}") from error
        return target.read_bytes()
