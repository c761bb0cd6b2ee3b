"""The eager INT8 edge as a file: its graph as JSON, its weights as safetensors.

Loading rebuilds an eager module without running anything that the file says: functions, methods
and module kinds come from fixed tables, names must be plain identifiers (torch.fx writes them into
the source that it compiles), and arguments are numbers, short words and references to earlier
nodes.
"""

from __future__ import annotations

import builtins
import keyword
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, fx, nn

from export.fx_modules import PlainModule, assemble, dismantle
from export.fx_operators import (
    DTYPES,
    FUNCTIONS,
    METHODS,
    arguments_are_safe,
    dtype_name,
    function_name,
)
from export.quantize import qnnpack_engine
from records import codec, files
from records.errors import BundleError, ExportError, RecordError

SCHEMA = "edgeveil.fx-graph/1"
MAX_NODES = 20_000
MAX_DEPTH = 8
MAX_TENSOR_BYTES = 1 << 32

_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]{0,199}$"
_PATH = r"^[A-Za-z0-9_-]{1,100}(\.[A-Za-z0-9_-]{1,100}){0,31}$"
_WORD = re.compile(r"[A-Za-z0-9_]{0,40}")
_IDENTIFIER_PATTERN = re.compile(_IDENTIFIER)
_PATH_PATTERN = re.compile(_PATH)

_ATTRIBUTE_DTYPES = (torch.float32, torch.int64, torch.int32)

Op = Literal["placeholder", "get_attr", "call_module", "call_function", "call_method", "output"]


class NodeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node; an argument is a scalar, or a one-key object that says what it is.

    ``{"node": name}``, ``{"tuple": […]}``, ``{"list": […]}``, ``{"slice": [a, b, c]}``,
    ``{"dtype": name}``.
    """

    name: Annotated[str, Meta(pattern=_IDENTIFIER)]
    op: Op
    target: Annotated[str, Meta(max_length=1000)]
    args: Annotated[tuple[Any, ...], Meta(max_length=64)] = ()
    kwargs: Annotated[dict[str, Any], Meta(max_length=64)] = {}


class ModuleRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One module without its tensors, which stand in the safetensors file under its path."""

    kind: Annotated[str, Meta(max_length=100)]
    settings: Annotated[dict[str, Any], Meta(max_length=64)]


class GraphRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole graph, nodes in order of execution, modules by path."""

    schema: Literal["edgeveil.fx-graph/1"] = "edgeveil.fx-graph/1"
    nodes: Annotated[tuple[NodeRecord, ...], Meta(min_length=2, max_length=MAX_NODES)]
    modules: dict[Annotated[str, Meta(pattern=_PATH)], ModuleRecord]


def save_graph(module: fx.GraphModule, graph_path: Path, tensors_path: Path) -> None:
    """Write a converted edge as a JSON graph and a safetensors file.

    Args:
        module: ``QuantizedEdge.float_boundary``.
        graph_path: the new JSON file.
        tensors_path: the new safetensors file.

    Raises:
        ExportError: the graph holds an operator, module or argument that the format does not.
        OverwriteError: a file exists.
    """
    tensors: dict[str, Tensor] = {}
    modules: dict[str, ModuleRecord] = {}
    nodes = []
    for node in module.graph.nodes:
        if node.op == "call_module":
            plain = dismantle(str(node.target), module.get_submodule(str(node.target)))
            settings = {k: _encode(v, node.name) for k, v in plain.settings.items()}
            modules[node.target] = ModuleRecord(kind=plain.kind, settings=settings)
            for key, tensor in plain.tensors.items():
                tensors[_module_key(node.target, key)] = tensor.contiguous()
        elif node.op == "get_attr":
            tensors[_attribute_key(node.target)] = _attribute(module, node.target)
        nodes.append(_record(node))
    record = GraphRecord(nodes=tuple(nodes), modules=modules)
    try:
        # What the reader would refuse must not be written.
        codec.decode(codec.encode(record), GraphRecord, "the graph")
    except RecordError as error:
        raise ExportError(f"the edge cannot be written to a graph file: {error}") from error
    codec.write(graph_path, record)
    files.write_bytes(tensors_path, save_tensors(tensors))


def load_graph(graph_path: Path, tensors_path: Path) -> fx.GraphModule:
    """Rebuild an eager INT8 edge from its two untrusted files; run it under engine qnnpack.

    Returns:
        A module that maps images (N, 3, S, S) float32 to the boundary (N, …) float32, bit for bit
        as the module that was saved.

    Raises:
        BundleError: a file is missing, malformed, or names anything that is not in the tables.
        UnsupportedHereError: this build of torch has no qnnpack.
    """
    try:
        record = codec.read(graph_path, GraphRecord)
    except RecordError as error:
        raise BundleError(str(error)) from error
    tensors = _read_tensors(tensors_path)
    try:
        with qnnpack_engine():
            root = _root(record, tensors)
        graph = _graph(record)
        module = fx.GraphModule(root, graph, "EagerInt8Edge").eval()
    except BundleError as error:
        raise BundleError(f"{graph_path}: {error}") from error
    except (RuntimeError, ValueError, TypeError, AssertionError, SyntaxError) as error:
        raise BundleError(f"{graph_path} does not make a graph: {error}") from error
    return module


# --- writing -------------------------------------------------------------------------------------


def _record(node: fx.Node) -> NodeRecord:
    target = str(node.target)
    if node.op == "call_function":
        name = function_name(node.target) if callable(node.target) else None
        if name is None or not arguments_are_safe(name, node.args, dict(node.kwargs)):
            raise ExportError(
                f"function {node.target} of node {node.name!r} has no place in a graph file"
            )
        target = name
    if node.op == "call_method" and target not in METHODS:
        raise ExportError(f"method {target!r} of node {node.name!r} has no place in a graph file")
    return NodeRecord(
        name=node.name,
        op=cast("Op", node.op),
        target=target,
        args=tuple(_encode(a, node.name) for a in node.args),
        kwargs={k: _encode(v, node.name) for k, v in node.kwargs.items()},
    )


def _encode(value: Any, where: str) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        return {"slice": [_encode(v, where) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(v, where) for v in value]}
    if isinstance(value, torch.dtype) and dtype_name(value) is not None:
        return {"dtype": dtype_name(value)}
    if _is_scalar(value):
        return value
    raise ExportError(f"argument {value!r} of node {where!r} has no place in a graph file")


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return abs(value) < 1 << 31
    return value is None


def _attribute(module: fx.GraphModule, target: str) -> Tensor:
    owner, _, name = target.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    if not isinstance(value, Tensor) or value.is_quantized or value.dtype not in _ATTRIBUTE_DTYPES:
        raise ExportError(f"attribute {target!r} has no place in a graph file: no plain tensor")
    if not bool(torch.isfinite(value).all()):
        raise ExportError(f"attribute {target!r} holds NaN or infinite values")
    return value.detach().contiguous()


def _module_key(path: str, key: str) -> str:
    return f"module/{path}/{key}"


def _attribute_key(path: str) -> str:
    return f"attribute/{path}"


# --- reading -------------------------------------------------------------------------------------


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.stat().st_size > MAX_TENSOR_BYTES:
            raise BundleError(f"{path} is larger than {MAX_TENSOR_BYTES} bytes")
        return load_tensors(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BundleError(f"{path} is not a safetensors file: {error}") from error


def _root(record: GraphRecord, tensors: dict[str, Tensor]) -> nn.Module:
    """Build the tree of modules and attributes that the graph refers to, and nothing else."""
    called = {n.target for n in record.nodes if n.op == "call_module"}
    if called != set(record.modules):
        odd = sorted(called ^ set(record.modules))
        raise BundleError(f"called and described modules differ: {odd[:3]}")
    attributes = {n.target for n in record.nodes if n.op == "get_attr"}
    left = dict(tensors)
    root = nn.Module()
    for path, module in sorted(record.modules.items()):
        prefix = _module_key(path, "")
        own = {k.removeprefix(prefix): left.pop(k) for k in sorted(left) if k.startswith(prefix)}
        settings = {k: _decode(v, _no_node, MAX_DEPTH) for k, v in module.settings.items()}
        _attach(root, path, assemble(path, PlainModule(module.kind, settings, own)))
    for path in sorted(attributes):
        _attach(root, path, _checked_attribute(path, left.pop(_attribute_key(path), None)))
    if left:
        raise BundleError(f"tensors that nothing uses: {sorted(left)[:3]}")
    return root


def _checked_attribute(path: str, tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise BundleError(f"the tensor of attribute {path!r} is missing")
    if tensor.dtype not in _ATTRIBUTE_DTYPES or not bool(torch.isfinite(tensor).all()):
        raise BundleError(f"attribute {path!r} is {tensor.dtype} or not finite")
    return tensor


def _attach(root: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    if not _PATH_PATTERN.fullmatch(path):
        raise BundleError(f"{path!r} is not a module path")
    *parents, name = path.split(".")
    owner = root
    for segment in parents:
        if segment not in owner._modules:
            _require_free(owner, segment, path)
            owner.add_module(segment, nn.Module())
        child = owner._modules[segment]
        # Only bare containers have children here: a layer's own attributes stay its own.
        if type(child) is not nn.Module:
            raise BundleError(f"{path!r} lies inside another module")
        owner = child
    _require_free(owner, name, path)
    if isinstance(value, Tensor):
        owner.register_buffer(name, value)
    else:
        owner.add_module(name, value)


def _require_free(owner: nn.Module, name: str, path: str) -> None:
    if hasattr(owner, name) or hasattr(fx.GraphModule, name) or name in _INSTANCE_NAMES:
        raise BundleError(f"{path!r} would hide another attribute named {name!r}")


#: What a GraphModule keeps on the instance rather than on its class.
_INSTANCE_NAMES = frozenset({"meta", "training", "graph", "code", "self"})


#: Names that mean something in the source that torch.fx compiles.
_RESERVED = frozenset({"self", *dir(builtins)})


class _Builder:
    """Adds untrusted nodes to a graph; an argument may only name an earlier node."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.made: dict[str, fx.Node] = {}

    def add(self, record: NodeRecord) -> None:
        """Add one node, or raise BundleError."""
        args = tuple(_decode(a, self.earlier, MAX_DEPTH) for a in record.args)
        kwargs = {
            _keyword(k): _decode(v, self.earlier, MAX_DEPTH) for k, v in record.kwargs.items()
        }
        target = _TARGETS[record.op](record, args, kwargs)
        if keyword.iskeyword(record.name) or record.name in _RESERVED:
            raise BundleError(f"node name {record.name!r} is reserved")
        node = self.graph.create_node(record.op, target, args, kwargs, record.name)
        if node.name != record.name:
            raise BundleError(f"node name {record.name!r} is taken or reserved")
        self.made[record.name] = node

    def earlier(self, name: str) -> fx.Node:
        """Return an earlier node by its name, or raise BundleError."""
        if name not in self.made:
            raise BundleError(f"an argument names {name!r}, which is no earlier node")
        return self.made[name]


def _graph(record: GraphRecord) -> fx.Graph:
    ops = [node.op for node in record.nodes]
    if ops[0] != "placeholder" or ops.count("placeholder") != 1:
        raise BundleError("the graph must begin with its only placeholder")
    if ops[-1] != "output" or ops.count("output") != 1:
        raise BundleError("the graph must end with its only output")
    builder = _Builder()
    for node in record.nodes:
        builder.add(node)
    builder.graph.lint()
    return builder.graph


Target = str | Callable[..., Any]


def _placeholder(record: NodeRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
    if args or kwargs or not _IDENTIFIER_PATTERN.fullmatch(record.target):
        raise BundleError(f"placeholder {record.target!r} must be a bare name")
    # The compiled source takes this name as it stands: it must be one that torch.fx would keep.
    return record.name


def _path_target(record: NodeRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
    if not _PATH_PATTERN.fullmatch(record.target):
        raise BundleError(f"{record.target!r} is not a module path")
    return record.target


def _attribute_target(record: NodeRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
    if args or kwargs:
        raise BundleError(f"attribute {record.name!r} takes no arguments")
    return _path_target(record, args, kwargs)


def _function(record: NodeRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
    if record.target not in FUNCTIONS or not arguments_are_safe(record.target, args, kwargs):
        raise BundleError(f"function {record.target!r} is not allowed in a graph file")
    return FUNCTIONS[record.target]


def _method(record: NodeRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
    if record.target not in METHODS:
        raise BundleError(f"method {record.target!r} is not allowed in a graph file")
    if not args or not isinstance(args[0], fx.Node):
        raise BundleError(f"method {record.target!r} must be called on a node")
    return record.target


def _output(record: NodeRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Target:
    if len(args) != 1 or kwargs or not isinstance(args[0], fx.Node):
        raise BundleError("the output must be one node")
    return "output"


_TARGETS: dict[Op, Callable[[NodeRecord, tuple[Any, ...], dict[str, Any]], Target]] = {
    "placeholder": _placeholder,
    "get_attr": _attribute_target,
    "call_module": _path_target,
    "call_function": _function,
    "call_method": _method,
    "output": _output,
}


def _keyword(name: str) -> str:
    if not _IDENTIFIER_PATTERN.fullmatch(name):
        raise BundleError(f"keyword {name!r} is not a name")
    return name


def _no_node(name: str) -> fx.Node:
    raise BundleError(f"a module's setting refers to node {name!r}")


def _decode(value: Any, node: Callable[[str], fx.Node], depth: int) -> Any:
    """Turn an untrusted argument into what it says, or raise BundleError."""
    if depth == 0:
        raise BundleError("an argument is nested too deeply")
    if not isinstance(value, dict):
        if isinstance(value, list) or not _is_scalar(value):
            raise BundleError(f"argument {str(value)[:60]!r} is not allowed in a graph file")
        return value
    if len(value) != 1:
        raise BundleError("an argument must be an object of one key")
    ((kind, content),) = value.items()
    if kind in {"node", "dtype"}:
        return _decode_name(kind, content, node)
    if kind not in {"tuple", "list", "slice"} or not isinstance(content, list):
        raise BundleError(f"argument kind {kind!r} is not allowed in a graph file")
    items = [_decode(item, node, depth - 1) for item in content]
    if kind == "slice":
        if len(items) != 3 or not all(v is None or type(v) is int for v in items):
            raise BundleError("a slice must hold three integers or nulls")
        return slice(*items)
    return tuple(items) if kind == "tuple" else items


def _decode_name(kind: str, content: Any, node: Callable[[str], fx.Node]) -> Any:
    if not isinstance(content, str):
        raise BundleError(f"a {kind} must be given by its name")
    if kind == "node":
        return node(content)
    if content not in DTYPES:
        raise BundleError(f"dtype {content!r} is not allowed in a graph file")
    return DTYPES[content]
