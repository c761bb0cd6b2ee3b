"""BatchNorm folded into the convolution or linear layer before it: the same function, fewer nodes.

Equalization and training look at the weights that are quantized, and these are the folded ones
(Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference", sec. 3.2.2).
"""

from __future__ import annotations

import copy
from collections import Counter

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_batch_norms(edge: fx.GraphModule) -> fx.GraphModule:
    """Return a copy in which every BatchNorm behind a layer of its own is part of that layer.

    Args:
        edge: in eval mode. Node names and module paths of the layers stay as they are.
    """
    folded = copy.deepcopy(edge)
    for node in normalized_layers(folded):
        (norm,) = node.users
        layer = _fold(folded, node, norm)
        owner, _, name = str(node.target).rpartition(".")
        setattr(folded.get_submodule(owner), name, layer)
        norm.replace_all_uses_with(node)
        folded.graph.erase_node(norm)
    folded.delete_all_unused_submodules()
    folded.graph.lint()
    folded.recompile()
    return folded


def normalized_layers(edge: fx.GraphModule) -> tuple[fx.Node, ...]:
    """Return the convolutions and linear layers whose only reader is a BatchNorm, in graph order.

    Layers and BatchNorms that the graph calls more than once are left out: folding one call would
    change the others.
    """
    calls = Counter(n.target for n in edge.graph.nodes if n.op == "call_module")
    modules = dict(edge.named_modules())
    found = []
    for node in edge.graph.nodes:
        if node.op != "call_module" or len(node.users) != 1 or calls[node.target] > 1:
            continue
        (reader,) = node.users
        if reader.op != "call_module" or calls[reader.target] > 1:
            continue
        layer, norm = modules[str(node.target)], modules[str(reader.target)]
        if isinstance(layer, _ConvNd | nn.Linear) and isinstance(norm, _BatchNorm):
            found.append(node)
    return tuple(found)


def _fold(module: fx.GraphModule, node: fx.Node, reader: fx.Node) -> nn.Module:
    layer = module.get_submodule(str(node.target))
    norm = module.get_submodule(str(reader.target))
    assert isinstance(norm, _BatchNorm)  # by ``normalized_layers``
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    assert isinstance(layer, _ConvNd)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _ConvTransposeNd))
