"""Cut a network in two on its traced graph: an edge half and a server half.

The edge is everything that the output of one named module depends on; the server is the rest. Only
the module's output may cross: a skip connection that jumps over the cut is refused.
"""

from __future__ import annotations

import copy
import difflib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from baseline.cost import node_costs
from records.cuts import Cut
from records.errors import ModelError, SplitError

#: Name of the server's input.
BOUNDARY = "boundary"
#: Cuts after the whole network, whatever its last module is called. A module of this name goes
#: first.
WHOLE = "output"


@dataclass(frozen=True)
class SplitNetwork:
    """A network in two halves, in eval mode; ``server(edge(x))`` equals the whole network.

    ``edge``: images (N, 3, S, S) float32 → boundary (N, …) float32.
    ``server``: boundary → logits (N, classes) float32; it returns its input when the edge is the
    whole network. The halves share no storage with the network that was split.
    """

    name: str
    edge: fx.GraphModule
    server: fx.GraphModule


def split_network(model: nn.Module, name: str) -> SplitNetwork:
    """Cut ``model`` after the output of its module ``name``.

    Args:
        model: takes one tensor, returns one tensor; it is copied and put in eval mode.
        name: dotted module path such as ``features.3``; residual adds, squeeze-excite and
            activations inside the named module belong to the edge. The last module, or
            ``output``, makes the whole network the edge.

    Raises:
        SplitError: no such module, it is called more or less than once, returns no single tensor,
            the edge would be empty, or another tensor crosses the cut.
        ModelError: torch.fx cannot trace the network, or it has several inputs or outputs.
    """
    traced = _trace(model)
    node = traced.cut_node(name)
    inside = _ancestors(node)
    traced.check(name, node, inside)
    return SplitNetwork(name, _edge_half(traced, node, inside), _server_half(traced, node, inside))


def list_cuts(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Cut, ...]:
    """Return every valid cut of a network in the order of its graph.

    Modules whose outputs are one and the same tensor make one cut, under the shortest name. The
    last cut is the whole network, called ``output`` where it ends with no module.

    Args:
        model: as for ``split_network``.
        input_shape: (3, S, S) of the input, without the batch axis.

    Raises:
        ModelError: torch.fx cannot trace the network, or it does not run on this input.
    """
    traced = _trace(model)
    try:
        costs = node_costs(traced.module, input_shape)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the network does not run on an input of {input_shape}: {error}"
        ) from None
    total = sum(cost.macs for cost in costs.values())
    cuts = []
    for node, name in traced.cut_names().items():
        inside = _ancestors(node)
        shape = costs[node.name].shape
        if shape is None or not traced.is_valid(name, node, inside):
            continue
        macs = sum(costs[n.name].macs for n in inside)
        values = int(torch.Size(shape[1:]).numel())
        cuts.append(
            Cut(
                name=name,
                edge_parameters=_parameter_count(traced.module, inside),
                edge_macs=macs,
                edge_share_macs=macs / total if total else 0.0,
                boundary_shape=tuple(shape[1:]),
                boundary_bytes_fp32=4 * values,
                boundary_bytes_uint8=values,
                whole_network=node is traced.result,
            )
        )
    return tuple(cuts)


class _PathTracer(fx.Tracer):
    """Traces through a network and keeps what every call of every module returned."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: dict[str, list[Any]] = {}

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        value = super().call_module(m, forward, args, kwargs)
        self.returned.setdefault(self.path_of_module(m), []).append(value)
        return value


@dataclass(frozen=True)
class _Traced:
    """A traced network: its graph, and what each module path returned, call by call."""

    module: fx.GraphModule
    returned: dict[str, list[Any]]
    paths: frozenset[str]
    placeholder: fx.Node
    result: fx.Node
    live: frozenset[fx.Node]

    def cut_node(self, name: str) -> fx.Node:
        """Return the node that module ``name`` returned, or raise SplitError."""
        calls = self.returned.get(name)
        if calls is None and name == WHOLE and name not in self.paths:
            return self.result
        if calls is None:
            raise SplitError(self._unknown(name))
        if len(calls) > 1:
            raise SplitError(
                f"module {name!r} is called {len(calls)} times: its output is not one place in "
                "the network; choose a module that is called once"
            )
        if not isinstance(calls[0], fx.Proxy):
            raise SplitError(
                f"module {name!r} returns a {type(calls[0]).__name__}, not one tensor; choose "
                "a module with a single output"
            )
        return calls[0].node

    def names(self) -> dict[fx.Node, str]:
        """Return node → shortest path of the modules that return it, in graph order."""
        found: dict[fx.Node, str] = {}
        for path, calls in self.returned.items():
            if len(calls) == 1 and isinstance(calls[0], fx.Proxy):
                node = calls[0].node
                found[node] = min(found.get(node, path), path, key=_depth_then_length)
        return {node: found[node] for node in self.module.graph.nodes if node in found}

    def cut_names(self) -> dict[fx.Node, str]:
        """Return ``names`` and the network's result, which may be the output of no module."""
        found = self.names()
        if WHOLE not in self.paths:
            found.setdefault(self.result, WHOLE)
        return found

    def check(self, name: str, node: fx.Node, inside: frozenset[fx.Node]) -> None:
        """Raise SplitError unless ``node`` alone separates the input from what follows."""
        if node not in self.live:
            raise SplitError(f"the network's output does not depend on module {name!r}")
        if node is self.placeholder:
            raise SplitError(f"module {name!r} returns the input itself: the edge would be empty")
        crossing = self._crossing(node, inside)
        if crossing:
            others = ", ".join(self.describe(n) for n in crossing)
            raise SplitError(
                f"a skip connection jumps over the cut {name!r}: besides {self.describe(node)} "
                f"also {others} crosses; cut at the end of the block instead"
            )

    def is_valid(self, name: str, node: fx.Node, inside: frozenset[fx.Node]) -> bool:
        """Return whether ``check`` accepts the cut."""
        try:
            self.check(name, node, inside)
        except SplitError:
            return False
        return True

    def describe(self, node: fx.Node) -> str:
        """Return a node's name with the module path that it belongs to."""
        if node is self.placeholder:
            return f"the network's input {node.name!r}"
        path = self.names().get(node)
        if path is not None:
            return f"the output of {path!r}"
        stack = list(node.meta.get("nn_module_stack", {}).values())
        inside = f" in {stack[-1][0]!r}" if stack and stack[-1][0] else ""
        return f"tensor {node.name!r}{inside}"

    def _crossing(self, node: fx.Node, inside: frozenset[fx.Node]) -> list[fx.Node]:
        # A parameter read on both sides is copied to both, not sent.
        return [
            n
            for n in self.module.graph.nodes
            if n in inside
            and n is not node
            and n.op != "get_attr"
            and any(user in self.live and user not in inside for user in n.users)
        ]

    def _unknown(self, name: str) -> str:
        if name in self.paths:
            return f"module {name!r} is never called under this name: the edge cannot end there"
        close = difflib.get_close_matches(name, self.returned, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `edgeveil inspect`"
        return f"the network has no module {name!r}; {hint}"


def _trace(model: nn.Module) -> _Traced:
    # A copy: a split must neither change the caller's mode nor share storage with it.
    model = copy.deepcopy(model).eval().requires_grad_(False)
    tracer = _PathTracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # tracing runs the user's own forward, which may raise anything
        raise ModelError(
            f"torch.fx cannot trace {type(model).__name__}: {error} "
            "(a forward that branches on the values of its input cannot be split)"
        ) from error
    module = fx.GraphModule(tracer.root, graph, type(model).__name__)
    outputs = graph.output_node().args[0]
    if not isinstance(outputs, fx.Node):
        raise ModelError(f"{type(model).__name__} must return one tensor, not several")
    live = _ancestors(outputs)
    inputs = [n for n in graph.nodes if n.op == "placeholder" and n in live]
    if len(inputs) != 1:
        raise ModelError(
            f"{type(model).__name__} must take one tensor; its output depends on {len(inputs)}"
        )
    _refuse_lost_writes(module, live)
    paths = frozenset(path for path, _ in model.named_modules(remove_duplicate=False))
    return _Traced(module, tracer.returned, paths, inputs[0], outputs, live)


def _refuse_lost_writes(module: fx.GraphModule, live: frozenset[fx.Node]) -> None:
    for node in module.graph.nodes:
        if node not in live and _is_in_place(module, node):
            raise ModelError(
                f"{node.name!r} changes a tensor in place and drops the result: torch.fx would "
                "lose the change; use the returned tensor instead"
            )


def _is_in_place(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    if node.kwargs.get("inplace") is True or "out" in node.kwargs:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_method":
        return name.endswith("_") and not name.endswith("__")
    if node.op == "call_function":
        in_operator = node.target in {getattr(operator, n, None) for n in _IN_PLACE_OPERATORS}
        return in_operator or (name.endswith("_") and not name.endswith("__"))
    return False


_IN_PLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ipow", "setitem")


def _ancestors(node: fx.Node) -> frozenset[fx.Node]:
    """Return a node and all that its value depends on."""
    found = {node}
    waiting = [node]
    while waiting:
        fresh = [n for n in waiting.pop().all_input_nodes if n not in found]
        found.update(fresh)
        waiting.extend(fresh)
    return frozenset(found)


def _edge_half(traced: _Traced, node: fx.Node, inside: frozenset[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for old in traced.module.graph.nodes:
        if old in inside:
            copies[old] = graph.node_copy(old, copies.__getitem__)
    graph.output(copies[node])
    return _half(traced.module, graph, "Edge")


def _server_half(traced: _Traced, node: fx.Node, inside: frozenset[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    boundary = graph.placeholder(BOUNDARY)
    # The boundary is the caller's tensor: a server that starts in place must not overwrite it.
    if any(_is_in_place(traced.module, user) for user in node.users):
        boundary = graph.call_method("clone", (boundary,))
    outside = traced.live - inside
    # A parameter that both halves read stands in both.
    shared = {n for n in inside if n.op == "get_attr" and not outside.isdisjoint(n.users)}
    copies = {node: boundary}
    for old in traced.module.graph.nodes:
        if old in outside or old in shared:
            copies[old] = graph.node_copy(old, copies.__getitem__)
    graph.output(copies[traced.result])
    return _half(traced.module, graph, "Server")


def _half(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    graph.lint()
    for node in graph.nodes:
        # torch.jit cannot resolve the annotations that tracing copied from the user's forward.
        node.type = None
    # GraphModule copies only the modules that the graph calls, so the parameters divide.
    return fx.GraphModule(root, graph, name).eval()


def _parameter_count(module: fx.GraphModule, nodes: frozenset[fx.Node]) -> int:
    return sum(
        p.numel() for p in {id(p): p for n in nodes for p in _parameters(module, n)}.values()
    )


def _parameters(module: fx.GraphModule, node: fx.Node) -> Iterator[nn.Parameter]:
    if node.op == "call_module":
        yield from module.get_submodule(str(node.target)).parameters()
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(module)
        if isinstance(value, nn.Parameter):
            yield value


def _depth_then_length(path: str) -> tuple[int, int, str]:
    return path.count("."), len(path), path
