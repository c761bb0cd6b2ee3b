"""The functions and methods that an eager graph file may name, and nothing else.

A graph file is untrusted: its names are looked up in these tables, never with getattr or eval.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

_Q = torch.ops.quantized

#: Name in the file → function. All are pure; none takes a name, a path or code.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "operator.add": operator.add,
    "operator.floordiv": operator.floordiv,
    "operator.getitem": operator.getitem,
    "operator.mul": operator.mul,
    "operator.sub": operator.sub,
    "operator.truediv": operator.truediv,
    "quantized.add": _Q.add,
    "quantized.add_relu": _Q.add_relu,
    "quantized.mul": _Q.mul,
    "quantized.mul_relu": _Q.mul_relu,
    "quantized.hardswish": _Q.hardswish,
    "quantized.leaky_relu": _Q.leaky_relu,
    "torch.add": torch.add,
    "torch.cat": torch.cat,
    "torch.chunk": torch.chunk,
    "torch.clamp": torch.clamp,
    "torch.flatten": torch.flatten,
    "torch.mean": torch.mean,
    "torch.mul": torch.mul,
    "torch.narrow": torch.narrow,
    "torch.permute": torch.permute,
    "torch.quantize_per_tensor": torch.quantize_per_tensor,
    "torch.relu": torch.relu,
    "torch.reshape": torch.reshape,
    "torch.sigmoid": torch.sigmoid,
    "torch.split": torch.split,
    "torch.squeeze": torch.squeeze,
    "torch.tanh": torch.tanh,
    "torch.transpose": torch.transpose,
    "torch.unsqueeze": torch.unsqueeze,
    "functional.adaptive_avg_pool2d": functional.adaptive_avg_pool2d,
    "functional.avg_pool2d": functional.avg_pool2d,
    "functional.dropout": functional.dropout,
    "functional.hardsigmoid": functional.hardsigmoid,
    "functional.hardswish": functional.hardswish,
    "functional.max_pool2d": functional.max_pool2d,
    "functional.relu": functional.relu,
    "functional.relu6": functional.relu6,
    "functional.silu": functional.silu,
    "functional.softmax": functional.softmax,
    # ``x.shape`` is traced as a call of getattr: the only attribute that may be asked for.
    "shape": builtins.getattr,
}

#: Largest side that adaptive pooling may be asked for.
MAX_POOLED = 4096

METHODS = frozenset(
    {
        "add",
        "chunk",
        "clamp",
        "contiguous",
        "dequantize",
        "dim",
        "flatten",
        "int_repr",
        "mean",
        "mul",
        "permute",
        "relu",
        "reshape",
        "sigmoid",
        "size",
        "split",
        "squeeze",
        "transpose",
        "unsqueeze",
        "view",
    }
)

DTYPES = {
    "float32": torch.float32,
    "int64": torch.int64,
    "quint8": torch.quint8,
}

_FUNCTION_NAMES = {function: name for name, function in FUNCTIONS.items()}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def function_name(function: Callable[..., Any]) -> str | None:
    """Return the name under which a file may hold ``function``, or None."""
    return _FUNCTION_NAMES.get(function)


def dtype_name(dtype: torch.dtype) -> str | None:
    """Return the name under which a file may hold ``dtype``, or None."""
    return _DTYPE_NAMES.get(dtype)


def arguments_are_safe(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a function that could do more, or harm, may be called with these arguments."""
    function = FUNCTIONS.get(name)
    if function is builtins.getattr:
        return len(args) == 2 and args[1] == "shape" and not kwargs
    if function is functional.adaptive_avg_pool2d:
        # Its quantized kernel divides by zero, and takes the process with it.
        size = kwargs.get("output_size", args[1] if len(args) > 1 else None)
        sizes = size if isinstance(size, tuple | list) else (size,)
        return all(s is None or (type(s) is int and 1 <= s <= MAX_POOLED) for s in sizes)
    return True
