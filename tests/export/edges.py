"""Split networks and their quantized edges, made once a session for several test files."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision import models

from baseline.split import SplitNetwork, split_network
from export.quantize import QuantizedEdge, quantize_edge
from records.recipe import ExportRecipe
from tests.tiny_network import build

#: Every network and cut that export must master.
NETWORKS = (
    ("tiny", "block1"),
    ("tiny", "block3"),
    ("tiny", "pool"),
    ("mobilenet_v3_small", "features.0"),
    ("mobilenet_v3_small", "features.1"),
    ("mobilenet_v3_small", "features.3"),
    ("mobilenet_v3_small", "features.8"),
    ("mobilenet_v3_small", "features.12"),
    ("mobilenet_v3_small", "avgpool"),
    ("mobilenet_v3_small", "classifier.2"),
    ("mobilenet_v3_large", "features.6"),
    ("mobilenet_v2", "features.3"),
    ("shufflenet_v2_x1_0", "stage3.0"),
    ("resnet18", "layer2.0"),
)


@functools.cache
def batch(side: int = 32) -> Tensor:
    """Return 24 seeded smooth images, (24, 3, side, side) float32, mean about 0, std about 1."""
    coarse = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=side, mode="bilinear") * 1.5


@functools.cache
def network(name: str) -> nn.Module:
    """Return a seeded network in eval mode whose BatchNorm statistics fit ``batch``."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = build(8) if name == "tiny" else getattr(models, name)(num_classes=8)
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = None  # the plain mean over batches: no trace of the initial 0 and 1
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
        model(batch())
    assert isinstance(model, nn.Module)
    return model.eval()


@functools.cache
def split(name: str, cut: str) -> SplitNetwork:
    """Return a network of ``network`` split at ``cut``."""
    return split_network(network(name), cut)


@functools.cache
def quantized(
    name: str,
    cut: str,
    weights: Literal["per-channel", "per-tensor"] = "per-channel",
    activations: Literal["min-max", "histogram"] = "min-max",
) -> QuantizedEdge:
    """Return the quantized edge of a network; callers must not change it."""
    recipe = ExportRecipe(weight_observer=weights, activation_observer=activations)
    return quantize_edge(split(name, cut).edge, [batch()], recipe)
