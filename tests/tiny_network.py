"""A small network of our own, not torchvision's: residual blocks and squeeze-excite."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))
        return gate * x


class ResidualBlock(nn.Module):
    """Depthwise-separable convolution, optional squeeze-excite, skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, squeeze: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.act = nn.Hardswish()
        self.squeeze = SqueezeExcite(inputs, 4) if squeeze else None
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.depthwise(x)))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.norm2(self.pointwise(y))
        out: Tensor = x + y if self.skip else y
        return out


class TinyNetwork(nn.Module):
    """Stem, four blocks, pooled classifier: about 3,000 parameters for 32×32 images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.block1 = ResidualBlock(8, 8, 1, squeeze=False)
        self.block2 = ResidualBlock(8, 16, 2, squeeze=True)
        self.block3 = ResidualBlock(16, 16, 1, squeeze=True)
        self.head = nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.block3(self.block2(self.block1(self.stem(x)))))
        logits: Tensor = self.classifier(torch.flatten(self.pool(x), 1))
        return logits


def build(num_classes: int = 8) -> nn.Module:
    """Return the network with torch's default initialisation, in train mode."""
    return TinyNetwork(num_classes)
