"""The inverse network: standardised features → closed-form image + what convolutions add to it.

The convolutions work at a quarter of the image's side, channels last, and end in a pixel shuffle:
on a CPU that costs an eighth of upsampling layers of the same width. Their last layer starts at
zero, so training starts from the closed-form solution instead of from noise. What one position
cannot know of the whole image, a pooled context tells it.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from attack.geometry import Grid, grid_of, move_between, to_grid, trunk_side, unfold_blocks
from attack.linear import LinearPath

#: Changes whenever an older cached decoder would no longer be what this code computes.
VERSION = 3

DESCRIPTION = (
    "Features standardised per channel by the attacker's statistics; ridge regression from each "
    "5×5 neighbourhood (dense on small grids) to its block of pixels, strength by validation loss; "
    "plus a residual network of 3×3 convolutions (SiLU) and one pooled context at a quarter of the "
    "image's side with pixel shuffle, last layer zero at the start; MSE, Muon for the residual "
    "convolutions and AdamW for the rest, one-cycle learning rate, weights of the best epoch by "
    "validation loss; output clipped to [0, 1]."
)

#: Width and number of residual blocks of each capacity; ``linear`` is the closed form alone.
CAPACITIES = {"linear": (0, 0), "small": (64, 2), "medium": (96, 2), "large": (128, 2)}
_MOST_VECTOR = 2048
_BOTTLENECK = 512
_SLOPE = 0.1


class DecoderSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a decoder is built from: boundary shape without batch axis, image side, capacity."""

    boundary: tuple[int, ...]
    image_side: int
    capacity: str

    @property
    def grid(self) -> Grid:
        """Where the features lie over the image."""
        return grid_of(self.boundary, self.image_side)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(x))), 3×3, the second convolution zero at the start."""

    def __init__(self, width: int) -> None:
        """Build both convolutions with ``width`` channels."""
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        _zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, t, t) to the same shape."""
        y: Tensor = x + self.second(silu(self.first(x)))
        return y


class Context(nn.Module):
    """x + two-layer network of the mean over all positions, zero at the start.

    Light and colour of the whole image, that a 3×3 neighbourhood does not show.
    """

    def __init__(self, width: int) -> None:
        """Build both layers with ``width`` channels."""
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        _zero(self.second)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, t, t) to the same shape."""
        y: Tensor = self.second(silu(self.first(x.mean((2, 3)))))
        return x + y[:, :, None, None]


class Entry(nn.Module):
    """Bring grid features onto the trunk's grid with ``width`` channels."""

    def __init__(self, grid: Grid, side: int, width: int) -> None:
        """Choose between folding, learned expansion and a plain convolution."""
        super().__init__()
        self.side = side
        self.expand = side // grid.side if side % grid.side == 0 else 1
        channels = grid.channels
        if grid.side > side and grid.side % side == 0:
            channels *= (grid.side // side) ** 2
        layers: list[nn.Module] = []
        if grid.side == 1 and channels > _MOST_VECTOR:
            layers = [nn.Conv2d(channels, _BOTTLENECK, 1), nn.SiLU()]
            channels = _BOTTLENECK
        kernel = 1 if grid.side == 1 else 3
        layers.append(nn.Conv2d(channels, width * self.expand**2, kernel, padding=kernel // 2))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, side, side) to (N, width, t, t)."""
        if self.expand > 1:
            return unfold_blocks(self.layers(x), self.expand)
        y: Tensor = self.layers(move_between(x, self.side))
        return y


class Trunk(nn.Module):
    """The trained part: entry, residual blocks, a context after the first, pixel shuffle."""

    def __init__(self, grid: Grid, width: int, blocks: int) -> None:
        """Build it for one grid; zero output at the start."""
        super().__init__()
        side = trunk_side(grid.image_side)
        self.block = grid.image_side // side
        self.entry = Entry(grid, side, width)
        first, *others = [ResidualBlock(width) for _ in range(blocks)]
        self.blocks = nn.Sequential(first, Context(width), *others)
        self.exit = nn.Conv2d(width, 3 * self.block**2, 3, padding=1)
        _zero(self.exit)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Map grid features (N, channels, side, side) to images (N, 3, H, W)."""
        # The weights' layout alone would leave the first activations in the other one.
        entered = self.entry(x).contiguous(memory_format=torch.channels_last)
        y = self.blocks(entered)
        # Noisy first steps may push everything below zero; SiLU alone passes nothing back there.
        return unfold_blocks(self.exit(silu(y) + _SLOPE * y), self.block)

    @property
    def hidden(self) -> list[nn.Parameter]:
        """The weights between two layers of the trunk's width: what Muon is made for."""
        return [p for p in self.blocks.parameters() if p.ndim == 4]


class Decoder(nn.Module):
    """From boundary features to images; unbounded while it is trained.

    Attributes:
        mean: float32 (C,), subtracted from the features.
        scale: float32 (C,), multiplied afterwards: 1 / standard deviation.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: DecoderSpec, mean: Tensor, scale: Tensor, path: LinearPath) -> None:
        """Build a decoder around a solved linear path; the trunk takes torch's global seed."""
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.path = path
        width, blocks = CAPACITIES[spec.capacity]
        self.trunk = Trunk(spec.grid, width, blocks) if width else None

    def forward(self, features: Tensor) -> Tensor:
        """Map float32 (N, *boundary) to images (N, 3, H, W)."""
        x = self.on_grid(features)
        image: Tensor = self.path(x)
        return image if self.trunk is None else image + self.trunk(x)

    def on_grid(self, features: Tensor) -> Tensor:
        """Standardise float32 (N, *boundary) and bring it onto the grid."""
        return standardised(features, self.mean, self.scale, self.spec.grid)

    @property
    def parameter_count(self) -> int:
        """Number of weights and biases, those of the linear path included."""
        return sum(p.numel() for p in self.parameters())


def as_maps(features: Tensor) -> Tensor:
    """Return (N, C, h, h) as it is, and anything else as (N, C, 1, 1)."""
    if features.ndim == 4 and features.shape[2] == features.shape[3]:
        return features
    return features.reshape(len(features), -1, 1, 1)


def statistics_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / standard deviation of each channel, float32 (C,).

    A channel that never changes is multiplied by zero: whatever a different artifact puts there is
    not known to carry anything.

    Args:
        features: float32 (N, *boundary).
    """
    maps = as_maps(features)
    total = torch.zeros(maps.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(maps), 512):
        wide = maps[start : start + 512].double()
        total += wide.sum((0, 2, 3))
        squares += wide.square().sum((0, 2, 3))
    count = math.prod((maps.shape[0], *maps.shape[2:]))
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0.0)
    spread = variance.sqrt()
    # Below this a channel's variance is rounding error of the sums.
    alive = spread > 1e-6 * (mean.abs() + 1e-12)
    scale = torch.where(alive, 1.0 / spread.clamp(min=1e-30), torch.zeros_like(spread))
    return mean.float(), scale.float()


def standardised(features: Tensor, mean: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Standardise float32 (N, *boundary) per channel and bring it onto its grid."""
    maps = as_maps(features)
    shape = (1, -1, 1, 1)
    return to_grid((maps - mean.reshape(shape)) * scale.reshape(shape), grid)


def tensors_of(decoder: Decoder) -> dict[str, Any]:
    """Return a decoder's tensors as contiguous numpy arrays, by their names."""
    return {k: v.detach().contiguous().numpy() for k, v in decoder.state_dict().items()}


def decoder_from(spec: DecoderSpec, kernel: int | None, tensors: dict[str, Any]) -> Decoder:
    """Rebuild a decoder from the tensors of `tensors_of`.

    Args:
        spec: what it was built from.
        kernel: of its linear path.
        tensors: by name.
    """
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    path = LinearPath(spec.grid, kernel, state["path.weight"], state["path.bias"])
    decoder = Decoder(spec, state["mean"], state["scale"], path)
    decoder.load_state_dict(state)
    return decoder.eval()


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
