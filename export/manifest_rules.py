"""The rules between the parts of a manifest that its schema alone cannot state."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from export.bundle_errors import InconsistentManifestError, ManifestError
from records.manifest import (
    MANIFEST_NAME,
    Artifact,
    ArtifactFormat,
    Boundary,
    Manifest,
    Precision,
    Preprocessing,
    TensorSpec,
)

#: Smallest normal and largest finite float32: below, dequantization would lose its precision.
_FLOAT32_NORMAL = (2.0**-126, (2.0 - 2.0**-23) * 2.0**127)
_MAX_VALUES = 1 << 28
_MODULE_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Kind:
    """What the artifact of one name must be."""

    file: str
    format: ArtifactFormat
    role: Literal["edge", "server", "reference"]
    precision: Precision
    boundary: Boundary


#: The nine artifacts of every bundle.
KINDS: dict[str, Kind] = {
    "edge_fp32_lite": Kind("edge_fp32.ptl", "torchscript-lite", "edge", "fp32", "float"),
    "edge_int8_lite": Kind("edge_int8.ptl", "torchscript-lite", "edge", "int8", "float"),
    "edge_int8_wire_lite": Kind("edge_int8_wire.ptl", "torchscript-lite", "edge", "int8", "wire"),
    "edge_fp32_onnx": Kind("edge_fp32.onnx", "onnx", "edge", "fp32", "float"),
    "edge_int8_onnx": Kind("edge_int8.onnx", "onnx", "edge", "int8", "float"),
    "edge_int8_wire_onnx": Kind("edge_int8_wire.onnx", "onnx", "edge", "int8", "wire"),
    "server_fp32_onnx": Kind("server_fp32.onnx", "onnx", "server", "fp32", "logits"),
    "eager_int8_graph": Kind("eager_int8.json", "fx-graph", "reference", "int8", "graph"),
    "eager_int8_tensors": Kind(
        "eager_int8.safetensors", "safetensors", "reference", "int8", "graph"
    ),
}

#: Those that a recipe may add, by the word of ``export.formats``.
ADDED: dict[str, dict[str, Kind]] = {
    "ort": {
        "edge_fp32_ort": Kind("edge_fp32.ort", "ort", "edge", "fp32", "float"),
        "edge_int8_ort": Kind("edge_int8.ort", "ort", "edge", "int8", "float"),
        "edge_int8_wire_ort": Kind("edge_int8_wire.ort", "ort", "edge", "int8", "wire"),
    },
    "pte": {
        "edge_fp32_pte": Kind("edge_fp32.pte", "executorch", "edge", "fp32", "float"),
        "edge_int8_pte": Kind("edge_int8.pte", "executorch", "edge", "int8", "float"),
        "edge_int8_wire_pte": Kind("edge_int8_wire.pte", "executorch", "edge", "int8", "wire"),
    },
    "tflite": {
        "edge_fp32_tflite": Kind("edge_fp32.tflite", "litert", "edge", "fp32", "float"),
        "edge_int8_tflite": Kind("edge_int8.tflite", "litert", "edge", "int8", "float"),
        "edge_int8_wire_tflite": Kind("edge_int8_wire.tflite", "litert", "edge", "int8", "wire"),
    },
}


def kinds_of(manifest: Manifest) -> dict[str, Kind]:
    """Return the artifacts that a bundle of this recipe must hold; no other is known."""
    kinds = dict(KINDS)
    for word in manifest.recipe.export.formats:
        kinds |= ADDED.get(word, {})
    return kinds


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest whose parts contradict each other.

    Raises:
        ManifestError: a name, number or path that no bundle has.
        InconsistentManifestError: an artifact, shape, dtype or scale that contradicts another part.
    """
    _check_names(manifest)
    _check_ends(manifest)
    _check_preprocessing(manifest)
    _check_scales(manifest)
    _check_data(manifest)
    _check_work(manifest)
    for artifact in manifest.artifacts:
        _check_artifact(manifest, artifact)


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise InconsistentManifestError(f"{MANIFEST_NAME}: {text}; export the bundle again")


def _check_names(manifest: Manifest) -> None:
    # The schema's patterns end with $, which also matches before a final line feed.
    for artifact in manifest.artifacts:
        for name in (artifact.name, artifact.file):
            if not _FILE_NAME.fullmatch(name):
                raise ManifestError(f"{MANIFEST_NAME}: {name!r} is not a plain file name")
    data = manifest.data
    hashes = [a.sha256 for a in manifest.artifacts]
    hashes += [manifest.bundle_id, manifest.checkpoint_sha256]
    hashes += [s.sha256 for s in (data.train, data.calibration, data.attacker, data.victim)]
    for text in hashes:
        if not _SHA256.fullmatch(text):
            raise ManifestError(f"{MANIFEST_NAME}: {text!r} is not a SHA-256")
    if not _MODULE_PATH.fullmatch(manifest.split) or len(manifest.split) > 200:
        raise ManifestError(f"{MANIFEST_NAME}: split {manifest.split!r} is not a module path")
    _check_listed(manifest)


def _check_listed(manifest: Manifest) -> None:
    names = [artifact.name for artifact in manifest.artifacts]
    files = [artifact.file.casefold() for artifact in manifest.artifacts]
    _require(len(set(names)) == len(names), "an artifact is listed twice")
    _require(len(set(files)) == len(files), "two artifacts have the same file")
    _require(MANIFEST_NAME not in files, f"an artifact is called {MANIFEST_NAME}")
    kinds = kinds_of(manifest)
    for name in names:
        _require(name in kinds, f"artifact {name!r} is not one of a bundle of this recipe")
    for name in kinds:
        _require(name in names, f"artifact {name!r} is missing")


def _check_ends(manifest: Manifest) -> None:
    image, boundary, output = manifest.input, manifest.boundary, manifest.output
    _require(image.name == "input", f"the input is called {image.name!r}")
    _require(boundary.name == "boundary", f"the boundary is called {boundary.name!r}")
    _require(output.name == "logits", f"the output is called {output.name!r}")
    for spec in (image, boundary, output):
        _require(spec.dtype == "float32", f"{spec.name} is {spec.dtype}, not float32")
        values = math.prod(spec.shape)
        _require(values <= _MAX_VALUES, f"{spec.name} has {values} values, over {_MAX_VALUES}")
    _require(len(image.shape) == 3 and image.shape[0] == 3, "the input is not (3, S, S)")
    _require(len(output.shape) == 1, "the logits are not one vector")
    _require(
        manifest.wire.shape == boundary.shape,
        f"the wire's shape {manifest.wire.shape} is not the boundary's {boundary.shape}",
    )


def _check_preprocessing(manifest: Manifest) -> None:
    given, model = manifest.preprocessing, manifest.recipe.model
    size = given.image_size
    _require(
        manifest.input.shape == (3, size, size),
        f"preprocessing makes images of {size} and the input has shape {manifest.input.shape}",
    )
    recipe = Preprocessing(
        native_size=manifest.data.native_size,
        image_size=model.image_size,
        mean=model.mean,
        std=model.std,
    )
    _require(given == recipe, "preprocessing is not that of the recipe and the data")


def _check_scales(manifest: Manifest) -> None:
    low, high = _FLOAT32_NORMAL
    scales = [(q.tensor, q.scale) for q in manifest.qparams] + [("wire", manifest.wire.scale)]
    for name, scale in scales:
        _require(low <= scale <= high, f"scale {scale} of {name!r} is not a normal float32 above 0")
    for q in manifest.qparams:
        _require(-128 <= q.zero_point <= 255, f"zero point {q.zero_point} of {q.tensor!r}")
    wire, recipe = manifest.wire, manifest.recipe.export
    _require(
        wire.zero_point <= wire.largest,
        f"zero point {wire.zero_point} of a wire of {wire.bits} bits",
    )
    _require(
        wire.bits == recipe.boundary_bits,
        f"the wire has {wire.bits} bits and the recipe asks for {recipe.boundary_bits}",
    )
    tensors = [q.tensor for q in manifest.qparams]
    _require(len(set(tensors)) == len(tensors), "a tensor's scale is listed twice")


def _check_data(manifest: Manifest) -> None:
    data = manifest.data
    _require(data.calibration.count > 0, "the calibration set is empty")
    _require(len(data.classes) >= 1, "the data has no classes")


def _check_work(manifest: Manifest) -> None:
    """Refuse a recipe that would keep or kill the machine of whoever runs it."""
    check, bench, attack = manifest.recipe.check, manifest.recipe.bench, manifest.recipe.attack
    amounts = {
        "threads": (max(bench.threads), 1024),
        "thread counts": (len(bench.threads), 64),
        "batch size": (max(check.batch_size, bench.batch_size, attack.batch_size), 1 << 16),
        "warm-up runs": (bench.warmup_runs, 1_000_000),
        "runs": (bench.runs, 1_000_000),
        "seconds of a run": (max(bench.seconds, bench.warmup_seconds), 86_400),
        "resamples": (max(check.bootstrap_resamples, attack.bootstrap_resamples), 1_000_000),
        "epochs": (attack.max_epochs, 100_000),
        "seeds": (len(attack.seeds), 1000),
    }
    for name, (amount, limit) in amounts.items():
        _require(amount <= limit, f"the recipe asks for {amount} {name}, over {limit}")


def _check_artifact(manifest: Manifest, artifact: Artifact) -> None:
    kind, name = kinds_of(manifest)[artifact.name], artifact.name
    found = Kind(
        artifact.file, artifact.format, artifact.role, artifact.precision, artifact.boundary
    )
    _require(found == kind, f"{name} is listed as {found}, not {kind}")
    needs_opset, needs_bytecode = kind.format in {"onnx", "ort"}, kind.format == "torchscript-lite"
    _require((artifact.opset is not None) == needs_opset, f"opset {artifact.opset} of {name}")
    _require(
        (artifact.bytecode_version is not None) == needs_bytecode,
        f"bytecode version {artifact.bytecode_version} of {name}",
    )
    # Two layers may share one stored weight, so the sum can exceed the file; not by much.
    _require(
        artifact.weight_bytes <= 4 * artifact.size,
        f"{name} claims {artifact.weight_bytes} weight bytes in a file of {artifact.size}",
    )
    first, last = _expected_ends(manifest, kind)
    _require(artifact.input == first, f"{name} takes {artifact.input}, not {first}")
    _require(artifact.output == last, f"{name} gives {artifact.output}, not {last}")


def _expected_ends(manifest: Manifest, kind: Kind) -> tuple[TensorSpec, TensorSpec]:
    if kind.role == "server":
        return manifest.boundary, manifest.output
    if kind.boundary == "wire":
        wire = manifest.wire
        return manifest.input, TensorSpec(name="boundary", shape=wire.shape, dtype="uint8")
    return manifest.input, manifest.boundary
