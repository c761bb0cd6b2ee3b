"""Cuts of torchvision's networks and of small ones built to be awkward."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from baseline.split import list_cuts, split_network
from records.errors import ModelError, SplitError
from tests.tiny_network import build

SHAPE = (3, 32, 32)
#: Network → every how many-th of its cuts is tried.
STEPS = {
    "tiny": 1,
    "mobilenet_v3_small": 1,
    "mobilenet_v2": 7,
    "shufflenet_v2_x1_0": 4,
    "resnet18": 3,
}


@functools.cache
def network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = build(8) if name == "tiny" else models.get_model(name, num_classes=8)
        model(torch.randn(8, *SHAPE))  # BatchNorm statistics other than 0 and 1
    assert isinstance(model, nn.Module)
    return model.eval()


def images() -> Tensor:
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.state_dict().items()


@pytest.mark.parametrize(("name", "step"), STEPS.items())
def test_edge_then_server_is_the_whole_network(name: str, step: int) -> None:
    model = network(name)
    whole = dict(tensors(model))
    x = images()
    with torch.no_grad():
        expected = model(x)
        cuts = list_cuts(model, SHAPE)
        for cut in cuts[::step]:
            halves = split_network(model, cut.name)
            boundary = halves.edge(x)
            kept = boundary.clone()
            assert torch.equal(halves.server(boundary), expected), cut.name
            assert torch.equal(boundary, kept), f"the server of {cut.name} changed its input"
            assert tuple(boundary.shape[1:]) == cut.boundary_shape
            assert cut.boundary_bytes_fp32 == boundary[0].numel() * 4
            assert cut.boundary_bytes_uint8 == boundary[0].numel()
            divided = [*tensors(halves.edge), *tensors(halves.server)]
            assert sorted(key for key, _ in divided) == sorted(whole), cut.name
            assert all(torch.equal(tensor, whole[key]) for key, tensor in divided)
            assert sum(p.numel() for p in halves.edge.parameters()) == cut.edge_parameters
    assert len({cut.name for cut in cuts}) == len(cuts)
    assert [c.edge_macs for c in cuts] == sorted(c.edge_macs for c in cuts)


def test_the_cuts_of_the_tiny_network_by_hand() -> None:
    cuts = {cut.name: cut for cut in list_cuts(network("tiny"), SHAPE)}
    # Inside block1 and block3 the skip connection crosses; block2 has none.
    assert list(cuts) == [
        *("stem.0", "stem.1", "stem", "block1"),
        *("block2.depthwise", "block2.norm1", "block2.act", "block2.squeeze", "block2.pointwise"),
        *("block2", "block3", "head.0", "head.1", "head", "pool", "classifier"),
    ]
    assert [cut.name for cut in cuts.values() if cut.whole_network] == ["classifier"]
    assert cuts["classifier"].edge_share_macs == 1.0
    assert cuts["classifier"].boundary_shape == (8,)
    assert cuts["stem"].edge_macs == 16 * 16 * 8 * 27
    assert cuts["block1"].edge_macs == 16 * 16 * (8 * 27 + 8 * 9 + 8 * 8)
    assert cuts["block1"].edge_parameters == 8 * 27 + 16 + 8 * 9 + 16 + 8 * 8 + 16
    assert cuts["block1"].boundary_shape == (8, 16, 16)
    assert cuts["pool"].edge_share_macs == pytest.approx(161_472 / (161_472 + 32 * 8))


def test_features_3_of_mobilenet_is_the_first_four_stages() -> None:
    model = network("mobilenet_v3_small")
    stages = nn.Sequential(*list(model.features)[:4])  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(split_network(model, "features.3").edge(images()), stages(images()))


def test_a_split_leaves_the_network_as_it_was() -> None:
    model = build(8).train()
    before = {key: value.clone() for key, value in tensors(model)}
    halves = split_network(model, "block1")
    with torch.no_grad():
        next(halves.edge.parameters()).zero_()
        halves.server(halves.edge(images()))
    assert model.training
    assert not halves.edge.training
    assert all(torch.equal(value, before[key]) for key, value in tensors(model))


def test_a_skip_over_the_cut_is_refused_naming_both_tensors() -> None:
    message = "besides the output of 'block3.squeeze' also the output of 'block2' crosses"
    with pytest.raises(SplitError, match=re.escape(message)):
        split_network(network("tiny"), "block3.squeeze")


def test_the_other_half_of_a_chunk_is_named() -> None:
    with pytest.raises(
        SplitError, match=r"'stage2\.1\.branch2' also tensor 'chunk' in 'stage2\.1'"
    ):
        split_network(network("shufflenet_v2_x1_0"), "stage2.1.branch2")


def test_an_unknown_name_brings_close_ones() -> None:
    with pytest.raises(SplitError, match="no module 'blok1'; did you mean block1"):
        split_network(network("tiny"), "blok1")
    with pytest.raises(SplitError, match="edgeveil inspect"):
        split_network(network("tiny"), "zzz")


@pytest.mark.parametrize(
    ("network_name", "name"),
    [
        ("tiny", "classifier"),
        ("tiny", "output"),
        ("mobilenet_v3_small", "classifier.3"),
        ("mobilenet_v3_small", "classifier"),
        ("mobilenet_v3_small", "output"),
    ],
)
def test_the_whole_network_can_be_the_edge(network_name: str, name: str) -> None:
    model = network(network_name)
    halves = split_network(model, name)
    assert halves.name == name
    assert [n.op for n in halves.server.graph.nodes] == ["placeholder", "output"]
    assert not halves.server.state_dict()
    with torch.no_grad():
        logits = halves.edge(images())
        assert torch.equal(logits, model(images()))
        assert torch.equal(halves.server(logits), logits)


class OutputModule(nn.Module):
    """Has a module called ``output`` that is not its end."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output(x).flatten(1)
        return result


def test_a_module_called_output_goes_before_the_alias() -> None:
    halves = split_network(OutputModule(), "output")
    assert halves.edge(images()).shape == images().shape
    cuts = list_cuts(OutputModule(), SHAPE)
    assert [(cut.name, cut.whole_network) for cut in cuts] == [("output", False)]


def test_a_network_that_ends_with_no_module_is_whole_under_the_alias() -> None:
    cuts = list_cuts(Shortcut(), SHAPE)
    assert [(cut.name, cut.whole_network) for cut in cuts] == [("output", True)]
    model = Shortcut().eval()
    halves = split_network(model, "output")
    assert torch.equal(halves.server(halves.edge(images())), model(images()))


class Awkward(nn.Module):
    """Modules that cannot be cut at, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Identity()
        self.layer = nn.Conv2d(3, 3, 1)
        self.twice = nn.ReLU()
        self.pair = Pair()
        self.unused = nn.Conv2d(3, 3, 1)
        self.idle = nn.Conv2d(3, 3, 1)
        self.alias = self.layer
        self.end = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        a, b = self.pair(self.twice(self.layer(self.start(x))))
        result: Tensor = self.end(self.twice(a) + b)
        return result


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", "called 2 times"),
        ("pair", "returns a tuple"),
        ("unused", "never called under this name"),
        ("alias", "never called under this name"),
        ("idle", "does not depend on module 'idle'"),
    ],
)
def test_awkward_modules_are_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_network(Awkward(), name)


class Shortcut(nn.Module):
    """The image itself reaches the server; ``size`` is taken from it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.layer(x)))
        result: Tensor = (y + x).view(x.size(0), -1)
        return result


def test_the_image_that_reaches_the_server_is_named() -> None:
    with pytest.raises(SplitError, match="also the network's input 'x'"):
        split_network(Shortcut(), "act")


class Untied(nn.Module):
    """One parameter is read on both sides of the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1))
        self.layer = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.layer(x * self.gain))
        result: Tensor = self.act(y) * self.gain
        return result


def test_a_parameter_that_both_sides_read_is_copied_to_both() -> None:
    model = Untied().eval()
    halves = split_network(model, "norm")
    assert "gain" in halves.edge.state_dict()
    assert "gain" in halves.server.state_dict()
    with torch.no_grad():
        boundary = halves.edge(images())
        kept = boundary.clone()
        assert torch.equal(halves.server(boundary), model(images()))
    assert torch.equal(boundary, kept)  # the server begins with a ReLU in place


class LostWrite(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU(inplace=True)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.how == "method":
            y.add_(1)
        elif self.how == "module":
            self.act(y)
        else:
            nn.functional.relu(y, inplace=True)
        return y.flatten(1)


@pytest.mark.parametrize("how", ["method", "module", "function"])
def test_a_write_that_tracing_would_lose_is_refused(how: str) -> None:
    with pytest.raises(ModelError, match="in place"):
        split_network(LostWrite(how), "layer")


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Branching(), "cannot trace Branching"),
        (TwoInputs(), "must take one tensor"),
        (TwoOutputs(), "must return one tensor"),
    ],
)
def test_a_network_that_cannot_be_traced_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        split_network(model, "anything")


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="does not run on an input"):
        list_cuts(network("tiny"), (5, 32, 32))
