"""The decoder takes any boundary, starts from the closed form, and is stored whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from attack.decoder import (
    CAPACITIES,
    Context,
    Decoder,
    DecoderSpec,
    ResidualBlock,
    decoder_from,
    statistics_of,
    tensors_of,
)
from attack.linear import constant_path

BOUNDARIES = [
    (24, 8, 8),
    (24, 7, 7),
    (40, 4, 4),
    (16, 16, 16),
    (8, 32, 32),
    (3, 64, 64),
    (6, 48, 48),
    (64, 2, 2),
    (64, 1, 1),
    (64,),
    (3000,),
    (5, 6),
]


def decoder(boundary: tuple[int, ...], side: int = 32, capacity: str = "small") -> Decoder:
    spec = DecoderSpec(boundary=boundary, image_side=side, capacity=capacity)
    channels = boundary[0] if len(boundary) != 2 else boundary[0] * boundary[1]
    torch.manual_seed(0)
    path = constant_path(spec.grid, torch.full((1, 3, side, side), 0.25))
    return Decoder(spec, torch.zeros(channels), torch.ones(channels), path)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_any_boundary_is_decoded_and_starts_at_the_closed_form(boundary: tuple[int, ...]) -> None:
    made = decoder(boundary)
    x = torch.randn(2, *boundary)
    image = made(x)
    assert image.shape == (2, 3, 32, 32)
    assert torch.equal(image, torch.full_like(image, 0.25))
    image.sum().backward()
    assert made.trunk is not None
    gradient = made.trunk.exit.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("side", [8, 28, 31, 96])
def test_any_image_side_is_decoded(side: int) -> None:
    assert decoder((4, 7, 7), side)(torch.randn(1, 4, 7, 7)).shape == (1, 3, side, side)


def test_the_context_tells_every_position_of_the_whole_image() -> None:
    torch.manual_seed(0)
    context = Context(8)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(context(x), x)
    with torch.no_grad():
        context.second.weight.normal_()
    moved = x.clone()
    moved[:, :, 0, 0] += 5.0
    change = (context(moved) - context(x))[:, :, 3, 3]
    assert change.abs().min() > 1e-4


def test_muon_gets_the_convolutions_between_blocks_and_nothing_else() -> None:
    trunk = decoder((24, 8, 8)).trunk
    assert trunk is not None
    width, blocks = CAPACITIES["small"]
    assert [tuple(p.shape) for p in trunk.hidden] == [(width, width, 3, 3)] * (2 * blocks)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in trunk.hidden)


def test_a_trunk_pushed_far_below_zero_still_learns() -> None:
    trunk = decoder((24, 8, 8)).trunk
    assert trunk is not None
    with torch.no_grad():
        trunk.exit.weight.normal_(std=0.01)
        last = trunk.blocks[-1]
        assert isinstance(last, ResidualBlock)
        assert last.second.bias is not None
        nn.init.constant_(last.second.bias, -80.0)
    trunk(torch.randn(4, 24, 8, 8)).square().sum().backward()
    gradient = trunk.entry.layers[-1].weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert gradient.abs().max() > 1e-3


def test_capacities_grow() -> None:
    counts = [decoder((24, 8, 8), 32, name).parameter_count for name in CAPACITIES]
    assert list(CAPACITIES) == ["linear", "small", "medium", "large"]
    assert all(1.5 * one < other for one, other in itertools.pairwise(counts[1:]))


def test_a_stored_decoder_gives_the_same_bits() -> None:
    made = decoder((24, 8, 8)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.01)
        x = torch.randn(3, 24, 8, 8)
        again = decoder_from(made.spec, made.path.kernel, tensors_of(made))
        assert torch.equal(made(x), again(x))
    assert again.parameter_count == made.parameter_count


def test_statistics_are_those_of_numpy_and_dead_channels_are_silenced() -> None:
    x = torch.randn(700, 3, 4, 4) * 3 + 5
    x[:, 1] = 7.25
    mean, scale = statistics_of(x)
    plain = x.numpy().astype(np.float64)
    assert mean.numpy() == pytest.approx(plain.mean((0, 2, 3)), abs=1e-5)
    assert scale[0].item() == pytest.approx(1 / plain[:, 0].std(), rel=1e-5)
    assert scale[1].item() == 0
    vector_mean, vector_scale = statistics_of(x[:, :, 0, 0])
    assert vector_mean.shape == vector_scale.shape == (3,)
