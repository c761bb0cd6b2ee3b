"""Folded BatchNorms: the same function from fewer nodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from baseline.split import split_network
from export.folding import fold_batch_norms, normalized_layers
from tests.export.edges import batch, split


@pytest.mark.parametrize(
    ("name", "cut"),
    [("tiny", "block3"), ("mobilenet_v3_small", "features.8"), ("resnet18", "layer2.0")],
)
def test_the_function_is_the_same_and_no_batch_norm_is_left(name: str, cut: str) -> None:
    edge = split(name, cut).edge
    folded = fold_batch_norms(edge)
    with torch.inference_mode():
        torch.testing.assert_close(folded(batch()), edge(batch()), rtol=1e-3, atol=1e-4)
    assert any(isinstance(m, nn.BatchNorm2d) for m in edge.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


class Shared(nn.Module):
    """A convolution that is called twice, and a BatchNorm that another node reads past."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.read = nn.Conv2d(3, 3, 1)
        self.other = nn.BatchNorm2d(3)
        self.end = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.twice(self.twice(x)))
        z = self.read(y)
        result: Tensor = self.end(self.other(z) + z)
        return result


def test_what_others_read_or_call_again_is_not_folded() -> None:
    torch.manual_seed(0)
    halves = split_network(nn.Sequential(Shared(), nn.Flatten()), "0")
    assert normalized_layers(halves.edge) == ()
    with torch.inference_mode():
        assert torch.equal(fold_batch_norms(halves.edge)(batch()), halves.edge(batch()))
