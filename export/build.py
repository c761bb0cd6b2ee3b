"""From a trained network and a cut to a sealed bundle: every artifact, then the manifest."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from baseline.datasets import ImageSplits
from baseline.preprocessing import preprocess
from baseline.split import SplitNetwork, split_network
from export import fx_graph, onnx_float, onnx_qdq, torchscript
from export.bundle import load_bundle, seal
from export.optional_formats import require_writers, write_optional
from export.qat import TrainingImages
from export.quantize import QuantizedEdge, qnnpack_engine, quantize_edge
from export.weights import WeightBytes, float_weight_bytes, weight_bytes
from records import codec, files
from records.errors import ExportError
from records.hashing import sha256_file
from records.manifest import (
    MANIFEST_NAME,
    Artifact,
    ArtifactFormat,
    Boundary,
    Manifest,
    Precision,
    Preprocessing,
    TensorSpec,
    WireTensor,
)
from records.progress import Progress, silent
from records.recipe import Recipe

CALIBRATION_BATCH = 128
_VERSIONED = ("edgeveil", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy")
#: Format → distributions that write it, which the manifest names where it holds the format.
_VERSIONED_WITH = {"pte": ("executorch", "torchao"), "tflite": ("ai-edge-litert", "flatbuffers")}


@dataclass(frozen=True)
class _Ends:
    """The tensors at the ends of the two halves, without the batch axis."""

    image: TensorSpec
    boundary: TensorSpec
    wire: TensorSpec
    logits: TensorSpec


@dataclass(frozen=True)
class _Halves:
    """Everything that the artifacts are written from."""

    split: SplitNetwork
    quantized: QuantizedEdge
    ends: _Ends
    edge_bytes: WeightBytes


def preprocessing_of(recipe: Recipe, native_size: int) -> Preprocessing:
    """Return the preprocessing that a recipe's network expects of native images."""
    return Preprocessing(
        native_size=native_size,
        image_size=recipe.model.image_size,
        mean=recipe.model.mean,
        std=recipe.model.std,
    )


def calibration_batches(recipe: Recipe, splits: ImageSplits) -> tuple[torch.Tensor, ...]:
    """Return the preprocessed calibration images, batches of shape (n, 3, S, S), float32.

    Raises:
        ExportError: there are none.
    """
    images = splits.calibration.images
    if len(images) == 0:
        raise ExportError("the calibration set is empty; set [data] calibration in the recipe")
    native = preprocess(images, preprocessing_of(recipe, splits.record.native_size))
    return torch.split(torch.from_numpy(native), CALIBRATION_BATCH)


def export_bundle(
    model: nn.Module,
    recipe: Recipe,
    splits: ImageSplits,
    split: str,
    folder: Path,
    *,
    checkpoint_sha256: str,
    replace: bool = False,
    progress: Progress = silent,
) -> Manifest:
    """Split, quantize and write one bundle; it appears whole and verified, or not at all.

    Args:
        model: the trained network in eval mode, (N, 3, S, S) float32 → (N, classes) float32.
        recipe: goes whole into the manifest; ``recipe.export`` decides the quantization.
        splits: the calibration set is preprocessed and observed; with ``recipe.export.qat`` the
            train set trains the edge.
        split: module path whose output is the boundary.
        folder: the bundle's folder.
        checkpoint_sha256: hash of the checkpoint file that ``model`` was loaded from.
        replace: allow an existing bundle to be replaced.
        progress: called once a refined range, a training step and an artifact.

    Returns:
        The sealed manifest.

    Raises:
        SplitError: the cut does not exist or more than one tensor crosses it.
        ExportError: an operator cannot be quantized or written.
        OverwriteError: the folder exists and ``replace`` is false.
        UnsupportedHereError: a format's package is not installed.
    """
    require_writers(recipe.export.formats)
    halves = _quantized_halves(model, recipe, splits, split, progress)
    with files.new_folder(folder, replace=replace) as partial:
        artifacts = tuple(_write_artifacts(halves, recipe, partial, progress))
        manifest = seal(
            split=split,
            recipe=recipe,
            checkpoint_sha256=checkpoint_sha256,
            data=splits.record,
            preprocessing=preprocessing_of(recipe, splits.record.native_size),
            input=halves.ends.image,
            boundary=halves.ends.boundary,
            output=halves.ends.logits,
            wire=WireTensor(
                shape=halves.ends.boundary.shape,
                scale=halves.quantized.wire_scale,
                zero_point=halves.quantized.wire_zero_point,
                bits=recipe.export.boundary_bits,
            ),
            artifacts=artifacts,
            qparams=halves.quantized.qparams,
            float_nodes=halves.quantized.float_nodes,
            equalized=halves.quantized.equalized,
            engine="qnnpack",
            versions=tool_versions(recipe.export.formats),
        )
        codec.write(partial / MANIFEST_NAME, manifest)
        load_bundle(partial)
    return manifest


def tool_versions(formats: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions that decide what an export of these formats contains."""
    names = [*_VERSIONED, *(n for word in formats for n in _VERSIONED_WITH.get(word, ()))]
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def _quantized_halves(
    model: nn.Module, recipe: Recipe, splits: ImageSplits, split: str, progress: Progress
) -> _Halves:
    halves = split_network(model, split)
    batches = calibration_batches(recipe, splits)
    training = TrainingImages(splits.train, preprocessing_of(recipe, splits.record.native_size))
    quantized = quantize_edge(
        halves.edge, batches, recipe.export, halves.server, training, progress=progress
    )
    return _Halves(
        split=halves,
        quantized=quantized,
        ends=_ends_of(halves, batches[0][:2]),
        edge_bytes=weight_bytes(quantized.float_boundary),
    )


def _ends_of(halves: SplitNetwork, batch: torch.Tensor) -> _Ends:
    with torch.inference_mode():
        boundary = halves.edge(batch)
        logits = halves.server(boundary)
    shape = tuple(boundary.shape[1:])
    return _Ends(
        image=TensorSpec(name="input", shape=tuple(batch.shape[1:]), dtype="float32"),
        boundary=TensorSpec(name="boundary", shape=shape, dtype="float32"),
        wire=TensorSpec(name="boundary", shape=shape, dtype="uint8"),
        logits=TensorSpec(name="logits", shape=tuple(logits.shape[1:]), dtype="float32"),
    )


def _write_artifacts(
    halves: _Halves, recipe: Recipe, folder: Path, progress: Progress
) -> Iterable[Artifact]:
    writers = (_write_lite, _write_onnx, _write_server, _write_reference)
    for step, write in enumerate(writers):
        progress("export", step, len(writers))
        yield from write(halves, recipe, folder)
    progress("export", len(writers), len(writers))
    yield from _write_added(halves, recipe, folder, progress)


def _write_lite(halves: _Halves, recipe: Recipe, folder: Path) -> Iterable[Artifact]:
    del recipe
    quantized = halves.quantized
    yield _lite_edge(folder / "edge_fp32.ptl", halves.split.edge, halves, "fp32", "float")
    yield _lite_edge(folder / "edge_int8.ptl", quantized.float_boundary, halves, "int8", "float")
    yield _lite_edge(folder / "edge_int8_wire.ptl", quantized.wire, halves, "int8", "wire")


def _write_added(
    halves: _Halves, recipe: Recipe, folder: Path, progress: Progress
) -> Iterable[Artifact]:
    edges = write_optional(
        recipe.export.formats,
        halves.split.edge,
        halves.quantized.float_boundary,
        halves.ends.image.shape,
        folder,
        progress,
    )
    for edge in edges:
        yield _edge_artifact(
            edge.path,
            halves,
            edge.precision,
            edge.boundary,
            name=edge.name,
            format=edge.format,
            opset=recipe.export.opset if edge.format == "ort" else None,
        )


def _lite_edge(
    path: Path, module: nn.Module, halves: _Halves, precision: Precision, boundary: Boundary
) -> Artifact:
    with qnnpack_engine():
        torchscript.write_lite(module, path)
    return _edge_artifact(
        path,
        halves,
        precision,
        boundary,
        name=f"{path.stem}_lite",
        format="torchscript-lite",
        bytecode_version=torchscript.bytecode_version(path),
    )


def _write_onnx(halves: _Halves, recipe: Recipe, folder: Path) -> Iterable[Artifact]:
    shape, opset = halves.ends.image.shape, recipe.export.opset
    path = folder / "edge_fp32.onnx"
    onnx_float.write_float_onnx(halves.split.edge, shape, path, opset=opset, output_name="boundary")
    yield _onnx_edge(path, halves, "fp32", "float", opset)
    quantized = halves.quantized.float_boundary
    path = folder / "edge_int8.onnx"
    onnx_qdq.write_qdq_onnx(quantized, shape, path, opset=opset, boundary="float")
    yield _onnx_edge(path, halves, "int8", "float", opset)
    path = folder / "edge_int8_wire.onnx"
    onnx_qdq.write_qdq_onnx(quantized, shape, path, opset=opset, boundary="wire")
    yield _onnx_edge(path, halves, "int8", "wire", opset)


def _onnx_edge(
    path: Path, halves: _Halves, precision: Precision, boundary: Boundary, opset: int
) -> Artifact:
    return _edge_artifact(
        path, halves, precision, boundary, name=f"{path.stem}_onnx", format="onnx", opset=opset
    )


def _edge_artifact(
    path: Path,
    halves: _Halves,
    precision: Precision,
    boundary: Boundary,
    *,
    name: str,
    format: ArtifactFormat,  # noqa: A002 - the manifest's own word
    opset: int | None = None,
    bytecode_version: int | None = None,
) -> Artifact:
    stored = halves.edge_bytes
    return Artifact(
        name=name,
        file=path.name,
        format=format,
        role="edge",
        precision=precision,
        boundary=boundary,
        sha256=sha256_file(path),
        size=path.stat().st_size,
        weight_bytes=stored.fp32 if precision == "fp32" else stored.int8,
        input=halves.ends.image,
        output=halves.ends.wire if boundary == "wire" else halves.ends.boundary,
        opset=opset,
        bytecode_version=bytecode_version,
    )


def _write_server(halves: _Halves, recipe: Recipe, folder: Path) -> Iterable[Artifact]:
    ends, opset = halves.ends, recipe.export.opset
    path = folder / "server_fp32.onnx"
    onnx_float.write_float_onnx(
        halves.split.server,
        ends.boundary.shape,
        path,
        opset=opset,
        input_name="boundary",
        output_name="logits",
    )
    yield Artifact(
        name="server_fp32_onnx",
        file=path.name,
        format="onnx",
        role="server",
        precision="fp32",
        boundary="logits",
        sha256=sha256_file(path),
        size=path.stat().st_size,
        weight_bytes=float_weight_bytes(halves.split.server),
        input=ends.boundary,
        output=ends.logits,
        opset=opset,
    )


def _write_reference(halves: _Halves, recipe: Recipe, folder: Path) -> Iterable[Artifact]:
    del recipe
    graph, tensors = folder / "eager_int8.json", folder / "eager_int8.safetensors"
    module = halves.quantized.float_boundary
    fx_graph.save_graph(module, graph, tensors)
    _prove_reference(module, graph, tensors, halves.ends.image.shape)
    for name, path in (("eager_int8_graph", graph), ("eager_int8_tensors", tensors)):
        yield Artifact(
            name=name,
            file=path.name,
            format="fx-graph" if path is graph else "safetensors",
            role="reference",
            precision="int8",
            boundary="graph",
            sha256=sha256_file(path),
            size=path.stat().st_size,
            weight_bytes=0 if path is graph else halves.edge_bytes.int8,
            input=halves.ends.image,
            output=halves.ends.boundary,
        )


def _prove_reference(module: nn.Module, graph: Path, tensors: Path, shape: tuple[int, ...]) -> None:
    """Refuse a reference file that does not compute what the FX model computes."""
    noise = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
    batch = torch.from_numpy(noise)
    with qnnpack_engine(), torch.inference_mode():
        same = torch.equal(module(batch), fx_graph.load_graph(graph, tensors)(batch))
    if not same:
        raise ExportError("the stored eager INT8 graph differs from the FX model; report this")
