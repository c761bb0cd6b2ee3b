"""ONNX Runtime's mobile file (``.ort``): a graph that is optimized before it is shipped.

A phone's smaller build of ONNX Runtime reads this format alone and optimizes nothing at load, so
the QDQ graph is fused here: what is stored are the integer operators themselves. Only optimizations
that hold on every CPU are used, none of an instruction set's memory layout.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnxruntime

from records import files
from records.errors import ExportError

_ERRORS_ONLY = 3


def write_ort(source: Path, path: Path) -> None:
    """Write an ONNX file's optimized graph as ``.ort``.

    Args:
        source: an ``.onnx`` file of the bundle.
        path: the new file.

    Raises:
        ExportError: ONNX Runtime cannot load or save the model.
        OverwriteError: the file exists.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.ort"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(saved)
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.save_model_format", "ORT")
        try:
            onnxruntime.InferenceSession(
                source.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        # ONNX Runtime's errors share no base class below Exception.
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot save {path.name}: {error}") from error
        files.write_bytes(path, saved.read_bytes())
