"""Cross-layer equalization: channels of one size, at no change of the FP32 function.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", sec.
4.1: where nothing but positively homogeneous operators stands between two layers, a channel may
leave the first divided by s and enter the second multiplied by s. With r₁ and r₂ the largest
absolute weights of the channel on both sides, s = √(r₁ / r₂) makes them equal.

Here s is rounded to a power of two: multiplying by it loses no bit, so the FP32 answers are the
same to the last one. Between a ReLU and a squeeze-excite product the channel has several readers,
and every one of them takes its s. Hard-swish, ReLU6 and sums with a skip connection end the search:
behind them the rule does not hold.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from export.folding import fold_batch_norms

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CARRIERS = (
    nn.ReLU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
)
_CARRYING_FUNCTIONS = {
    functional.relu,
    functional.adaptive_avg_pool2d,
    functional.avg_pool2d,
    torch.relu,
    torch.flatten,
}
_PRODUCTS = {operator.mul, torch.mul}
#: Chains settle within a few sweeps; the rounding to powers of two ends them for good.
_MOST_SWEEPS = 20


@dataclass(frozen=True)
class Link:
    """A layer and the layers that read its channels: ``first`` and ``readers`` are module paths."""

    first: str
    readers: tuple[str, ...]

    def __str__(self) -> str:
        """Return ``first > reader, reader``."""
        return f"{self.first} > {', '.join(self.readers)}"


def equalize(edge: fx.GraphModule) -> tuple[fx.GraphModule, tuple[Link, ...]]:
    """Return a copy with BatchNorms folded and channels equalized, and where that was possible.

    Args:
        edge: FP32 in eval mode; without any link the copy is only folded.
    """
    folded = fold_batch_norms(edge)
    links = find_links(folded)
    with torch.no_grad():
        for _ in range(_MOST_SWEEPS):
            changed = [_equalize_link(folded, link) for link in links]
            if not any(changed):
                break
    return folded, links


def find_links(folded: fx.GraphModule) -> tuple[Link, ...]:
    """Return every layer all of whose readers can take a factor, in graph order."""
    alone = _called_once(folded)
    links = []
    for node in folded.graph.nodes:
        if node in alone:
            readers = _readers(folded, node, alone)
            if readers:
                links.append(Link(str(node.target), tuple(str(r.target) for r in readers)))
    return tuple(links)


def _called_once(folded: fx.GraphModule) -> frozenset[fx.Node]:
    """Return the layers that the graph calls once and whose weights belong to them alone."""
    layers = {
        n: folded.get_submodule(str(n.target)) for n in folded.graph.nodes if n.op == "call_module"
    }
    kept = {n: m for n, m in layers.items() if isinstance(m, _LAYERS)}
    owners = Counter(id(p) for m in kept.values() for p in m.parameters())
    return frozenset(n for n, m in kept.items() if all(owners[id(p)] == 1 for p in m.parameters()))


def _readers(
    folded: fx.GraphModule, first: fx.Node, alone: frozenset[fx.Node]
) -> tuple[fx.Node, ...]:
    """Return the layers that read the channels of ``first``; none if anything else does."""
    scaled, readers, waiting = {first}, set[fx.Node](), [first]
    products = []
    while waiting:
        for user in waiting.pop().users:
            if user in alone and _takes(folded, first, user):
                readers.add(user)
            elif _is_product(user):
                products.append(user)
            elif not _carries(folded, user):
                return ()
            if user not in readers and user not in scaled:
                scaled.add(user)
                waiting.append(user)
    # A product of two scaled tensors would take the square of the factor.
    if any(sum(n in scaled for n in p.args) != 1 for p in products):
        return ()
    return tuple(n for n in folded.graph.nodes if n in readers)


def _takes(folded: fx.GraphModule, first: fx.Node, second: fx.Node) -> bool:
    """Return whether the inputs of ``second`` are the channels of ``first``, one by one."""
    if _width(folded, first, 0) != _width(folded, second, 1):
        return False
    linear = [isinstance(folded.get_submodule(str(n.target)), nn.Linear) for n in (first, second)]
    # A linear layer reads the last axis: the channels of a convolution only once it is flattened.
    return linear[0] == linear[1] or (linear[1] and _is_flattened(folded, first, second))


def _is_flattened(folded: fx.GraphModule, first: fx.Node, node: fx.Node) -> bool:
    while node is not first and node.all_input_nodes:
        node = node.all_input_nodes[0]
        if node.target is torch.flatten:
            return True
        if node.op == "call_module" and isinstance(
            folded.get_submodule(str(node.target)), nn.Flatten
        ):
            return True
    return False


def _width(folded: fx.GraphModule, node: fx.Node, side: int) -> int:
    layer = folded.get_submodule(str(node.target))
    names = ("out_features", "in_features") if isinstance(layer, nn.Linear) else _CONV_WIDTHS
    return int(getattr(layer, names[side]))


_CONV_WIDTHS = ("out_channels", "in_channels")


def _is_product(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _PRODUCTS


def _carries(folded: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(folded.get_submodule(str(node.target))) in _CARRIERS
    return node.op == "call_function" and node.target in _CARRYING_FUNCTIONS


def _equalize_link(folded: fx.GraphModule, link: Link) -> bool:
    """Equalize one link in place and return whether anything changed."""
    first = folded.get_submodule(link.first)
    readers = [folded.get_submodule(path) for path in link.readers]
    out = first.weight.detach().flatten(1).abs().amax(1)  # type: ignore[operator]
    taken = torch.stack([_by_input(reader) for reader in readers]).amax(0)
    ratio = (out / taken).sqrt()
    usable = (out > 0) & (taken > 0) & torch.isfinite(ratio) & (ratio > 0)
    factor = torch.where(usable, ratio, 1.0).log2().round().exp2()
    for parameter in first.parameters():
        parameter.div_(factor.reshape(-1, *(1,) * (parameter.dim() - 1)))
    for reader in readers:
        _multiply_inputs(reader, factor)
    return bool((factor != 1.0).any())


def _groups(layer: nn.Module) -> int:
    return int(getattr(layer, "groups", 1))


def _by_input(layer: nn.Module) -> Tensor:
    """Return the largest absolute weight that meets each input channel, float32 (C,)."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    return _grouped(layer, weight.abs()).flatten(3).amax((1, 3)).flatten()


def _multiply_inputs(layer: nn.Module, factor: Tensor) -> None:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    grouped = _grouped(layer, weight)
    grouped.mul_(factor.reshape(_groups(layer), 1, -1, 1))


def _grouped(layer: nn.Module, weight: Tensor) -> Tensor:
    """View a weight as (groups, outputs of a group, inputs of a group, positions)."""
    groups = _groups(layer)
    return weight.view(groups, weight.shape[0] // groups, weight.shape[1], -1)
