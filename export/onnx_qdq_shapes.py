"""QDQ ONNX of the operators that move values without computing: on stored integers, exactly."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from export.fx_facts import STOCHASTIC_DEPTH, key_of
from export.onnx_qdq_writer import Call, OperatorWriter, QdqWriter, refuse


def _alias(writer: QdqWriter, call: Call) -> None:
    """Dropout in eval mode, contiguous, clone: the same values."""
    writer.put_either(call.node, writer.either(call.source), call.source)


def _dropout(writer: QdqWriter, call: Call) -> None:
    """Modules are in eval mode here; a function says so in its arguments."""
    place = 3 if key_of(call.node, call.module) == STOCHASTIC_DEPTH else 2
    if call.module is None and call.get("training", place, True):
        refuse(call.node, "a dropout outside eval mode is random")
    _alias(writer, call)


def _reshape(writer: QdqWriter, call: Call) -> None:
    """Any change of shape that keeps the batch axis: the sizes are those that torch computed."""
    source, shape = call.source, writer.shape(call.node)
    if shape == writer.shape(source):
        _alias(writer, call)
        return
    result = reshaped(writer, call.node, writer.either(source), shape)
    writer.note_reshape(result, writer.either(source), writer.shape(source))
    writer.put_either(call.node, result, source)


def reshaped(writer: QdqWriter, node: fx.Node, name: str, shape: tuple[int, ...]) -> str:
    """Reshape a tensor to (N, *shape) and return the result's name."""
    # 0 copies the batch axis, whatever its size.
    sizes = writer.graph.constant(f"{node.name}_shape", np.asarray((0, *shape), np.int64))
    return writer.graph.node("Reshape", [name, sizes])


def flatten_pixel(writer: QdqWriter, node: fx.Node) -> None:
    """Make a node's stored (N, features, 1, 1) the (N, features) that it is in torch.

    What it was is remembered: what reads it pixel by pixel needs no reshape. Its channels come last
    first, as they do in ONNX Runtime's integer kernels: its own transpose back goes with this one.
    """
    pixel, shape = writer.stored(node), writer.shape(node)
    last = writer.graph.node("Transpose", [pixel], perm=[0, 2, 3, 1])
    flat = reshaped(writer, node, last, shape)
    writer.note_reshape(flat, pixel, (*shape, 1, 1))
    writer.put_stored(node, flat)


def on_pixels(write: OperatorWriter) -> OperatorWriter:
    """Let a writer of one operator on each value work before a flattening instead of behind it."""

    def written(writer: QdqWriter, call: Call) -> None:
        source = call.source
        quantized = writer.is_quantized(call.node) and writer.is_quantized(source)
        flat = writer.stored(source) if quantized else ""
        pixel = writer.flattened(flat, (*writer.shape(source), 1, 1))
        if pixel is None:
            write(writer, call)
            return
        writer.put_stored(source, pixel)
        write(writer, call)
        writer.put_stored(source, flat)
        flatten_pixel(writer, call.node)

    return written


def _transpose(writer: QdqWriter, call: Call) -> None:
    rank = len(writer.shape(call.source)) + 1
    first, second = (
        _axis(call, call.get(f"dim{i}", i + 1), rank, allow_batch=False) for i in (0, 1)
    )
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    _permuted(writer, call, order)


def _permute(writer: QdqWriter, call: Call) -> None:
    dims = call.node.args[1:] or (call.node.kwargs.get("dims"),)
    given = dims[0] if isinstance(dims[0], tuple | list) else dims
    rank = len(writer.shape(call.source)) + 1
    order = [_axis(call, axis, rank, allow_batch=True) for axis in given]
    if order[0] != 0:
        refuse(call.node, "it moves the batch axis")
    _permuted(writer, call, order)


def _permuted(writer: QdqWriter, call: Call, order: list[int]) -> None:
    name = writer.either(call.source)
    result = writer.graph.node("Transpose", [name], perm=order)
    writer.put_either(call.node, result, call.source)


def _channel_shuffle(writer: QdqWriter, call: Call) -> None:
    """Write (N, g·c, H, W) → (N, g, c, H, W) → (N, c, g, H, W) → (N, c·g, H, W)."""
    node, groups = call.node, call.get("groups", 1)
    channels, *rest = writer.shape(node)
    split = (groups, channels // groups, *rest)
    divided = reshaped(writer, node, writer.either(call.source), split)
    order = [0, 2, 1, *range(3, len(split) + 1)]
    turned = writer.graph.node("Transpose", [divided], perm=order)
    writer.put_either(node, reshaped(writer, node, turned, (channels, *rest)), call.source)


def _divide(writer: QdqWriter, call: Call) -> None:
    """chunk, split and tensor_split: the sizes are those that torch computed."""
    node, source = call.node, call.source
    rank = len(writer.shape(source)) + 1
    axis = _axis(call, call.get("dim", 2, 0), rank, allow_batch=False)
    sizes = writer.part_sizes(node, axis)
    split = writer.graph.constant(f"{node.name}_sizes", np.asarray(sizes, np.int64))
    outputs = [f"{node.name}_{index}" for index in range(len(sizes))]
    names = writer.graph.nodes("Split", [writer.either(source), split], outputs, axis=axis)
    writer.put_parts(node, names)
    if writer.is_quantized(node):
        writer.keep_parameters(node, source)


def _item(writer: QdqWriter, call: Call) -> None:
    """One part of a divided tensor, or slices of a tensor."""
    source, index = call.source, call.node.args[1]
    if isinstance(writer.value(source), tuple | list):
        if not isinstance(index, int):
            refuse(call.node, f"index {index!r} into the parts of a tensor is not written")
        writer.put_either(call.node, writer.part(source, index), source)
        return
    _slice(writer, call, index if isinstance(index, tuple) else (index,))


def _slice(writer: QdqWriter, call: Call, index: tuple[Any, ...]) -> None:
    source = call.source
    sizes = (0, *writer.shape(source))
    index = _without_ellipsis(index, len(sizes))
    if not index or index[0] != slice(None):
        refuse(call.node, "it takes a part of the batch")
    name = writer.either(source)
    for axis, (size, part) in enumerate(zip(sizes[1:], index[1:], strict=False), start=1):
        cut = _range(call, part, size)
        if cut != (0, size, 1):
            name = _cut(writer, call, name, axis, cut)
    if any(isinstance(part, int) for part in index):
        name = reshaped(writer, call.node, name, writer.shape(call.node))
    writer.put_either(call.node, name, source)


def _cut(writer: QdqWriter, call: Call, name: str, axis: int, cut: tuple[int, int, int]) -> str:
    start, end, step = cut
    settings = {"starts": start, "ends": end, "axes": axis, "steps": step}
    inputs = [
        writer.graph.constant(f"{call.node.name}_{n}", np.asarray([v], np.int64))
        for n, v in settings.items()
    ]
    return writer.graph.node("Slice", [name, *inputs])


def _without_ellipsis(index: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    if Ellipsis not in index:
        return index
    place = index.index(Ellipsis)
    missing = rank - (len(index) - 1)
    return (*index[:place], *[slice(None)] * missing, *index[place + 1 :])


def _range(call: Call, part: Any, size: int) -> tuple[int, int, int]:
    if isinstance(part, int):
        part = slice(part, part + 1) if part != -1 else slice(-1, None)
    if not isinstance(part, slice) or not all(
        isinstance(bound, int | None) for bound in (part.start, part.stop, part.step)
    ):
        refuse(call.node, f"index {part!r} is not written")
    return part.indices(size)


def _concatenate(writer: QdqWriter, call: Call) -> None:
    """Concat of stored integers where all share one scale, of float32 otherwise."""
    node = call.node
    parts = call.get("tensors", 0)
    if not isinstance(parts, tuple | list):
        refuse(node, "its tensors are not listed one by one")
    rank = len(writer.shape(node)) + 1
    # torch.ops.quantized.cat(tensors, dim, scale, zero_point) has the axis there too.
    axis = _axis(call, call.get("dim", 1, 0), rank, allow_batch=False)
    name = f"{node.name}_joined"
    if _share_one_scale(writer, node, parts):
        stored = [writer.stored(part) for part in parts]
        result = writer.graph.node("Concat", stored, name, axis=axis)
        writer.put_either(node, result, parts[0])
        return
    writer.operate(call, "Concat", [writer.real(part) for part in parts], axis=axis)


def _share_one_scale(writer: QdqWriter, node: fx.Node, parts: Any) -> bool:
    return all(writer.is_quantized(n) for n in (node, *parts)) and all(
        writer.quantization(part) == writer.quantization(node) for part in parts
    )


def _axis(call: Call, axis: Any, rank: int, *, allow_batch: bool) -> int:
    if not isinstance(axis, int) or not -rank <= axis < rank:
        refuse(call.node, f"axis {axis!r} does not fit {rank} axes")
    if axis % rank == 0 and not allow_batch:
        refuse(call.node, "it works along the batch axis")
    return axis % rank


_RESHAPING = (
    *(nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze),
    *("flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze"),
)
_UNCHANGING = (nn.Identity, torch.clone, "contiguous", "clone", "detach")
_DROPOUT = (nn.Dropout, nn.Dropout2d, torch.ao.nn.quantized.Dropout)

SHAPES: dict[object, OperatorWriter] = {
    **dict.fromkeys(_RESHAPING, _reshape),
    **dict.fromkeys(_UNCHANGING, _alias),
    **dict.fromkeys((*_DROPOUT, functional.dropout, STOCHASTIC_DEPTH), _dropout),
    **dict.fromkeys((torch.transpose, "transpose"), _transpose),
    **dict.fromkeys((torch.permute, "permute"), _permute),
    **dict.fromkeys((nn.ChannelShuffle, functional.channel_shuffle), _channel_shuffle),
    **dict.fromkeys((torch.chunk, torch.split, "chunk", "split"), _divide),
    operator.getitem: _item,
    **dict.fromkeys((torch.cat, torch.concat, torch.ops.quantized.cat), _concatenate),
}
