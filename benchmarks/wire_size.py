"""Bytes per image on the wire, packed and compressed, beside the bytes of the image itself."""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt

from baseline.preprocessing import preprocess
from benchmarks.timing import nearest_rank
from export.bundle import Bundle
from records.bench import CompressedSize, WireSize
from records.errors import UnsupportedHereError
from records.manifest import Artifact, WireTensor
from records.progress import Progress, silent
from runtime_check.packed_wire import pack
from runtime_check.runtime import LoadedArtifact, runtime_for
from runtime_check.wire import sent_values

ZLIB_LEVEL = 6
METHOD = f"zlib level {ZLIB_LEVEL}, each image on its own"

#: More victims than these move the mean by far less than images differ from one another.
MAX_IMAGES = 1000
_BATCH = 100


def wire_size(
    bundle: Bundle,
    images: npt.NDArray[np.uint8] | None,
    *,
    reason: str | None = None,
    progress: Progress = silent,
) -> WireSize:
    """Measure what one image costs on the wire.

    What is compressed is the packed tensor, which at 8 bits is the uint8 tensor itself. The
    compressed figures need real images: noise does not compress, and a network's answer to
    noise says nothing. Without images they are None.

    Args:
        bundle: a verified bundle.
        images: uint8 (N, H, H, 3) victims at the native size; the first 1,000 are used.
        reason: why ``images`` is None.
        progress: told about each batch.

    Raises:
        ArtifactError: the wire artifact does not load or run, or sends a value that does not fit
            the wire's bits.
        DataError: the images have another size than the bundle's.
    """
    manifest = bundle.manifest
    values = math.prod(manifest.wire.shape)
    artifact, loaded = _open_wire_artifact(bundle)
    feature_sizes = image_sizes = None
    if images is None or len(images) == 0:
        reason = reason or "no real images were given"
    elif artifact is None or loaded is None:
        reason = "no artifact of the bundle that ends at the wire tensor runs here"
    else:
        chosen = images[:MAX_IMAGES]
        batch = preprocess(chosen, manifest.preprocessing)
        sent = _sent(loaded, batch, manifest.wire, artifact.name, progress)
        feature_sizes = compressed_size(pack(sent, manifest.wire.bits))
        image_sizes = compressed_size(chosen)
    return WireSize(
        shape=manifest.wire.shape,
        raw_bytes=values,
        bits=manifest.wire.bits,
        packed_bytes=manifest.wire.packed_bytes,
        float_bytes=4 * values,
        image_bytes=3 * manifest.preprocessing.native_size**2,
        artifact=artifact.name if artifact is not None and feature_sizes is not None else None,
        compressed=feature_sizes,
        image_compressed=image_sizes,
        not_measured=None if feature_sizes is not None else reason,
    )


def compressed_size(tensors: npt.NDArray[np.uint8]) -> CompressedSize:
    """Compress each tensor's C-order bytes on its own with zlib and return the sizes.

    Args:
        tensors: uint8 (N, …), N ≥ 1.
    """
    sizes = [len(zlib.compress(tensor.tobytes(), ZLIB_LEVEL)) for tensor in tensors]
    return CompressedSize(
        method=METHOD,
        images=len(sizes),
        mean=sum(sizes) / len(sizes),
        p5=nearest_rank(sizes, 5),
        p50=nearest_rank(sizes, 50),
        p95=nearest_rank(sizes, 95),
    )


def _open_wire_artifact(bundle: Bundle) -> tuple[Artifact | None, LoadedArtifact | None]:
    candidates = [a for a in bundle.edges("int8") if a.boundary == "wire"]
    # ONNX first: it runs from the core install alone.
    for artifact in sorted(candidates, key=lambda a: a.format != "onnx"):
        try:
            return artifact, runtime_for(artifact).load(bundle, artifact)
        except UnsupportedHereError:
            continue
    return None, None


def _sent(
    loaded: LoadedArtifact,
    batch: npt.NDArray[np.float32],
    wire: WireTensor,
    name: str,
    progress: Progress,
) -> npt.NDArray[np.uint8]:
    parts: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(batch), _BATCH):
        output = loaded.run(batch[start : start + _BATCH])
        parts.append(np.ascontiguousarray(sent_values(output, wire, name)))
        progress("bench: wire bytes", min(start + _BATCH, len(batch)), len(batch))
    return np.concatenate(parts)
