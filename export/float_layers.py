"""Layers that stay in float: found by name before quantization, made plain after it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from export.observers import RangeObserver
from records.errors import ExportError


@dataclass(frozen=True)
class FloatLayers:
    """What a quantization mapping must leave out.

    ``modules``: their paths. ``functions``: each with its place, from 0, among the graph's calls of
    the same function, as FX counts them.
    """

    modules: tuple[str, ...]
    functions: tuple[tuple[Callable[..., Any], int], ...]


def find_float_layers(
    edge: fx.GraphModule, prepared: fx.GraphModule, names: Iterable[str]
) -> FloatLayers:
    """Find the calls that belong to modules or nodes of these names.

    Args:
        edge: FP32, traced.
        prepared: its prepared graph without float layers, which tells what would be quantized.
        names: a module path takes everything inside the module along; a node name, such as
            ``add_6``, a single function.

    Raises:
        ExportError: a name that the edge does not have, or of which nothing would be quantized.
    """
    calls = [node for node in edge.graph.nodes if node.op in ("call_module", "call_function")]
    places = _places(edge)
    observed = _observed(prepared)
    modules: dict[str, None] = {}
    functions: dict[tuple[Callable[..., Any], int], None] = {}
    for name in names:
        found = [node for node in calls if _belongs(node, name)]
        if not found:
            raise ExportError(_unknown(name, calls))
        if not any(places[node] in observed for node in found):
            raise ExportError(
                f"float layer {name!r}: nothing of it is quantized (BatchNorm and ReLU are folded "
                "into the layer before them: name that one)"
            )
        modules |= {str(n.target): None for n in found if n.op == "call_module"}
        functions |= {places[n]: None for n in found if n.op == "call_function"}
    return FloatLayers(tuple(modules), tuple(functions))


def require_float(converted: fx.GraphModule, names: Iterable[str], left: Iterable[str]) -> None:
    """Refuse modules that torch computes on integers all the same.

    Between quantized neighbours an activation with fixed scales, such as a hard-sigmoid, is.

    Args:
        converted: its graph.
        names: of the layers that must be float.
        left: names of the nodes that are.

    Raises:
        ExportError: a module without a single float node.
    """
    float_nodes = set(left)
    modules = [n for n in converted.graph.nodes if n.op == "call_module"]
    for name in names:
        own = [node for node in modules if _is_inside(str(node.target), name)]
        if own and not any(node.name in float_nodes for node in own):
            raise ExportError(
                f"float layer {name!r}: between quantized neighbours torch computes it on "
                "integers; name the module around it"
            )


def take_apart_fused(converted: fx.GraphModule) -> None:
    """Replace every float layer that FX fused, convolution and ReLU say, by calls of its parts.

    What is quantized is of other classes and stays as it is.

    Args:
        converted: of ``convert_fx``; changed in place.
    """
    for node in list(converted.graph.nodes):
        fused = converted.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(fused, nn.Sequential):
            continue
        value = node.args[0]
        with converted.graph.inserting_before(node):
            for part, _ in fused.named_children():
                value = converted.graph.call_module(f"{node.target}.{part}", (value,))
        node.replace_all_uses_with(value)
        converted.graph.erase_node(node)
    converted.recompile()


def _belongs(node: fx.Node, name: str) -> bool:
    if node.op == "call_module":
        return _is_inside(str(node.target), name)
    owners = node.meta.get("nn_module_stack", {}).values()
    return node.name == name or any(_is_inside(str(path), name) for path, _ in owners)


def _is_inside(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _places(module: fx.GraphModule) -> dict[fx.Node, Any]:
    """Return what a node is called by FX's settings: a module's path, a function and its index."""
    counts: Counter[Any] = Counter()
    places: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "call_function":
            places[node] = (node.target, counts[node.target])
            counts[node.target] += 1
        else:
            places[node] = str(node.target)
    return places


def _observed(prepared: fx.GraphModule) -> set[Any]:
    places = _places(prepared)
    return {
        places[source]
        for node in prepared.graph.nodes
        if node.op == "call_module" and _watches(prepared.get_submodule(str(node.target)))
        for source in node.all_input_nodes
    }


def _watches(module: nn.Module) -> bool:
    return isinstance(module, RangeObserver) or hasattr(module, "calculate_qparams")


def _unknown(name: str, calls: list[fx.Node]) -> str:
    known = {str(n.target) if n.op == "call_module" else n.name for n in calls}
    owners = {path.rpartition(".")[0] for path in known} - {""}
    close = difflib.get_close_matches(name, sorted(known | owners), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "see `edgeveil sensitivity`"
    return f"the edge has no float layer {name!r}; {hint}"
