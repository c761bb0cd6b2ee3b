"""The formats that a recipe may add to a bundle: .ort, ExecuTorch's .pte, LiteRT's .tflite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import fx

from export.layer_reader import read_layers
from export.layers import LayerGraph
from records.errors import ExportError, UnsupportedHereError
from records.manifest import ArtifactFormat, Boundary, Precision
from records.progress import Progress
from records.recipe import ExportFormat

#: Format → package that writes it, and the extra of edgeveil that brings the package.
_NEEDS: dict[ExportFormat, tuple[str, str]] = {
    "pte": ("executorch", "executorch"),
    "tflite": ("ai_edge_litert", "litert"),
}
_MANIFEST_FORMATS: dict[ExportFormat, ArtifactFormat] = {
    "ort": "ort",
    "pte": "executorch",
    "tflite": "litert",
}
_ENDS: tuple[tuple[Precision, Boundary, str], ...] = (
    ("fp32", "float", "edge_fp32"),
    ("int8", "float", "edge_int8"),
    ("int8", "wire", "edge_int8_wire"),
)


@dataclass(frozen=True)
class WrittenEdge:
    """One edge file that was written."""

    path: Path
    format: ArtifactFormat
    precision: Precision
    boundary: Boundary

    @property
    def name(self) -> str:
        """The artifact's name in the manifest."""
        return f"{self.path.stem}_{self.path.suffix.removeprefix('.')}"


def require_writers(formats: Iterable[ExportFormat]) -> None:
    """Refuse formats whose packages are not installed, before anything is computed.

    Raises:
        UnsupportedHereError: names the format, the package and the extra.
    """
    for word in formats:
        package, extra = _NEEDS.get(word, (None, None))
        if package is not None and find_spec(package) is None:
            raise UnsupportedHereError(
                f"format {word} needs {package}, not installed here; run: pip install '.[{extra}]'"
                ", or leave it out of --formats"
            )


def write_optional(
    formats: Iterable[ExportFormat],
    edge: fx.GraphModule,
    float_boundary: fx.GraphModule,
    input_shape: tuple[int, ...],
    folder: Path,
    progress: Progress,
) -> Iterator[WrittenEdge]:
    """Write FP32, INT8 and INT8 wire of every added format.

    Args:
        formats: of the recipe; ``ptl`` and ``onnx`` are passed over.
        edge: the FP32 edge.
        float_boundary: the converted edge, whose qparams all formats carry.
        input_shape: (3, S, S).
        folder: of the bundle, which holds the ONNX files already.
        progress: told about each file.

    Raises:
        ExportError: an operator cannot be written; names it.
    """
    added = [word for word in formats if word in _MANIFEST_FORMATS]
    read: dict[Precision, LayerGraph] = {}
    if {"pte", "tflite"} & set(added):
        read = {
            "fp32": read_layers(edge, input_shape),
            "int8": read_layers(float_boundary, input_shape),
        }
    steps = [(word, *end) for word in added for end in _ENDS]
    for step, (word, precision, boundary, stem) in enumerate(steps):
        progress("export: added formats", step, len(steps))
        path = folder / f"{stem}.{word}"
        _write(word, path, read.get(precision), boundary)
        yield WrittenEdge(path, _MANIFEST_FORMATS[word], precision, boundary)
    if steps:
        progress("export: added formats", len(steps), len(steps))


def _write(word: ExportFormat, path: Path, layers: LayerGraph | None, boundary: Boundary) -> None:
    # Each writer is imported when it is asked for: its package may be missing otherwise.
    if word == "ort":
        from export.ort_format import write_ort

        write_ort(path.with_suffix(".onnx"), path)
    elif layers is None:
        raise ExportError(f"format {word} has no writer here")
    elif word == "pte":
        from export.pte import write_pte

        write_pte(layers, path, wire=boundary == "wire")
    else:
        from export.tflite import write_tflite

        write_tflite(layers, path, boundary="wire" if boundary == "wire" else "float")
