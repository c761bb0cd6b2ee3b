"""A bundle's FP32 edge as a torch module again, from the checkpoint that it was exported from.

A bundle holds the edge as files only, none of which ``torch.export`` reads. What a user would give
to another exporter is the network itself; whether the one built here is the bundle's is measured.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from baseline.model import build_model
from baseline.split import split_network
from export.bundle import Bundle
from records.errors import InputError, UnsupportedHereError
from records.manifest import Artifact
from runtime_check.ort import OrtRuntime

_COMPARED = 8
#: As when the FP32 edge was written, see `export.onnx_float`.
_RELATIVE_TOLERANCE = 1e-3

Images = npt.NDArray[np.float32]


def rebuilt_edge(bundle: Bundle, fp32: Artifact, weights: Path, images: Images) -> fx.GraphModule:
    """Build the bundle's network, load a checkpoint, cut it, and compare it with the FP32 edge.

    Args:
        bundle: a verified bundle; its recipe names the network and its manifest the cut.
        fp32: its FP32 ONNX edge.
        weights: the checkpoint, safetensors or of ``torch.save``.
        images: preprocessed, float32 (N, 3, S, S) with N ≥ 1; the first few are run through both.

    Returns:
        The edge in eval mode: float32 (N, 3, S, S) → float32 (N, *boundary).

    Raises:
        UnsupportedHereError: the network is somebody's own code, which no bundle may name.
        ModelError: the checkpoint cannot be read or does not fit.
        SplitError: the network has no such cut.
        InputError: it does not compute what the FP32 edge computes.
    """
    manifest = bundle.manifest
    recipe = msgspec.structs.replace(manifest.recipe.model, weights=str(weights))
    if ":" in recipe.name:
        raise UnsupportedHereError(
            f"the bundle's network {recipe.name} is code of its maker, which is never imported on "
            "a bundle's word: only torchvision's networks are built again"
        )
    model = build_model(recipe, len(manifest.data.classes))
    edge = split_network(model, manifest.split).edge
    batch = images[:_COMPARED]
    with torch.inference_mode():
        found = edge(torch.from_numpy(batch)).numpy()
    _require_same(found, OrtRuntime().load(bundle, fp32).run(batch), weights, fp32)
    return edge


def _require_same(found: Images, expected: Images, weights: Path, fp32: Artifact) -> None:
    same_shape = found.shape == expected.shape
    largest = max(float(np.abs(expected).max()), 1.0)
    if same_shape and float(np.abs(found - expected).max()) <= _RELATIVE_TOLERANCE * largest:
        return
    raise InputError(
        f"the network with the weights {weights} does not compute what {fp32.file} of the bundle "
        "computes; name the checkpoint that the bundle was exported from"
    )
