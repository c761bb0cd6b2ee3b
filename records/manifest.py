"""The manifest of a bundle, schema-versioned, and the record of the data that made it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.recipe import Recipe

SCHEMA = "edgeveil.bundle/1"
MANIFEST_NAME = "manifest.json"

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Dimension = Annotated[int, Meta(ge=1, le=1 << 20)]
#: A plain file name: no folders, no dot files, nothing that could leave the bundle.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


Precision = Literal["fp32", "int8"]
Boundary = Literal["float", "wire", "logits", "graph"]
#: ``torchscript-lite``: .ptl. ``ort``: ONNX Runtime's mobile file. ``executorch``: .pte.
#: ``litert``: .tflite. ``fx-graph`` and ``safetensors``: the eager reference.
ArtifactFormat = Literal[
    "torchscript-lite", "onnx", "ort", "executorch", "litert", "fx-graph", "safetensors"
]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the manifest's parts: frozen, keyword-only, unknown keys refused."""


class TensorSpec(Part, frozen=True, kw_only=True):
    """One tensor at an artifact's end: name, shape without the batch axis, dtype."""

    name: str
    shape: Annotated[tuple[Dimension, ...], Meta(min_length=1, max_length=4)]
    dtype: Literal["float32", "uint8"]


class Preprocessing(Part, frozen=True, kw_only=True):
    """From a stored image to the network's input, in this order.

    uint8 (N, H, W, 3) → /255 → (x − mean) / std per channel → bilinear resize to
    ``image_size`` (half-pixel centres, no antialias) → float32 (N, 3, S, S).
    """

    native_size: Dimension
    image_size: Dimension
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class WireTensor(Part, frozen=True, kw_only=True):
    """The uint8 tensor that is sent: real value = scale · (q − zero_point), 0 ≤ q < 2^bits.

    Its values may travel packed, ``bits`` each (docs/wire-format.md).
    """

    shape: Annotated[tuple[Dimension, ...], Meta(min_length=1, max_length=4)]
    scale: Annotated[float, Meta(gt=0.0)]
    zero_point: Annotated[int, Meta(ge=0, le=255)]
    bits: Literal[8, 6, 4, 3, 2, 1] = 8
    dtype: Literal["uint8"] = "uint8"

    @property
    def largest(self) -> int:
        """The largest q, 2^bits − 1."""
        return (1 << self.bits) - 1

    @property
    def packed_bytes(self) -> int:
        """Bytes of one packed image: ceil(values · bits / 8)."""
        return -(-math.prod(self.shape) * self.bits // 8)


class Artifact(Part, frozen=True, kw_only=True):
    """One file of a bundle.

    ``boundary``: what an edge artifact ends with, ``float`` (dequantized or FP32) or
    ``wire`` (the uint8 tensor that is really sent); ``logits`` for the server half; ``graph`` for
    the eager reference. ``weight_bytes``: bytes of the weights and biases as stored.
    """

    name: FileName
    file: FileName
    format: ArtifactFormat
    role: Literal["edge", "server", "reference"]
    precision: Precision
    boundary: Boundary
    sha256: Sha256
    size: Annotated[int, Meta(ge=1, le=1 << 32)]
    weight_bytes: Annotated[int, Meta(ge=0)]
    input: TensorSpec
    output: TensorSpec
    opset: int | None = None
    bytecode_version: int | None = None


class SetRecord(Part, frozen=True, kw_only=True):
    """One of the disjoint image sets: how many, and the SHA-256 over images and labels."""

    count: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class DataRecord(Part, frozen=True, kw_only=True):
    """Where the images came from and what each set holds."""

    source: str
    native_size: Dimension
    classes: tuple[str, ...]
    train: SetRecord
    calibration: SetRecord
    attacker: SetRecord
    victim: SetRecord
    attacker_pool: Literal["held-out", "train"]
    dropped_duplicates: Annotated[int, Meta(ge=0)]


class Qparams(Part, frozen=True, kw_only=True):
    """Scale and zero point of one quantized tensor, by the name it has in the FX graph."""

    tensor: str
    scale: float
    zero_point: int


class Manifest(Part, frozen=True, kw_only=True):
    """Everything about a bundle; ``bundle_id`` is the SHA-256 of the rest as canonical JSON.

    ``equalized``: between which layers channels were equalized, ``first > reader, reader``.
    """

    schema: Literal["edgeveil.bundle/1"] = "edgeveil.bundle/1"
    bundle_id: Sha256
    split: str
    recipe: Recipe
    checkpoint_sha256: Sha256
    data: DataRecord
    preprocessing: Preprocessing
    input: TensorSpec
    boundary: TensorSpec
    output: TensorSpec
    wire: WireTensor
    artifacts: Annotated[tuple[Artifact, ...], Meta(min_length=1, max_length=64)]
    qparams: tuple[Qparams, ...]
    float_nodes: tuple[str, ...]
    equalized: tuple[str, ...] = ()
    engine: str
    versions: dict[str, str]
