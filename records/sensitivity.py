"""What quantizing each layer alone costs: the record of ``edgeveil sensitivity``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.manifest import Sha256
from records.recipe import Recipe

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class AnswerLoss(Part, frozen=True, kw_only=True):
    """How far the network's answers are from those of FP32.

    ``kl_nats``: Kullback-Leibler divergence of the class probabilities, mean an image.
    ``top1_agreement``: share of the images whose most likely class stays the same.
    """

    kl_nats: float
    top1_agreement: Share


class LayerSensitivity(Part, frozen=True, kw_only=True):
    """One tensor quantized alone, with the weights of the layer that makes it.

    ``name``: as ``float_layers`` takes it: the path of the module, or the node of the graph, that
    makes the tensor. ``kind``: what that is. ``quantizes_weights``: whether it has weights.
    ``sqnr_db``: signal to quantization noise of the tensor, 10·log10(Σ y² / Σ (ŷ − y)²); None where
    nothing changed. ``scale``, ``zero_point``: of its grid.
    """

    name: str
    kind: Literal["input", "module", "function"]
    quantizes_weights: bool
    scale: float
    zero_point: int
    sqnr_db: float | None
    loss: AnswerLoss


class SensitivityRecord(Part, frozen=True, kw_only=True):
    """A sweep over every quantized tensor of one edge, the most harmful first.

    ``images``: calibration images that the losses were measured on. ``everything``: all layers
    quantized at once, by the same simulation in float.
    """

    schema: Literal["edgeveil.sensitivity/1"] = "edgeveil.sensitivity/1"
    split: str
    recipe: Recipe
    checkpoint_sha256: Sha256
    images: Annotated[int, Meta(ge=1)]
    images_sha256: Sha256
    everything: AnswerLoss
    layers: tuple[LayerSensitivity, ...]
