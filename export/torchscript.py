"""TorchScript Lite files (``.ptl``): the format that PyTorch's mobile interpreter runs.

What torch saves also holds much that the Lite interpreter never reads, and names that depend on
what the process compiled before: `export.lite_compact` leaves both out.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.jit._builtins import _find_builtin
from torch.jit.mobile import _get_model_bytecode_version

from export.lite_compact import compact
from records import files
from records.errors import ArtifactError, ExportError


def write_lite(module: nn.Module, path: Path) -> None:
    """Write a module as a frozen TorchScript Lite file, by atomic rename.

    The file runs in the Lite interpreter only (``torch.jit.load`` needs the source that is left
    out). Freezing folds BatchNorm into FP32 convolutions, which changes last bits; a quantized
    module keeps every bit.

    Args:
        module: FP32 or quantized, in eval mode; the batch axis stays dynamic.
        path: the new file.

    Raises:
        ExportError: torch.jit cannot compile the module.
        OverwriteError: the file exists.
    """
    with _quiet_torch(), _data_is_no_function(module):
        try:
            frozen = torch.jit.freeze(torch.jit.script(module.eval()))
            saved = frozen._save_to_buffer_for_lite_interpreter()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            name = type(module).__name__
            raise ExportError(f"torch.jit cannot compile {name}: {error}") from error
    files.write_bytes(path, compact(saved))


def bytecode_version(path: Path) -> int:
    """Return the bytecode version of a TorchScript Lite file.

    Raises:
        ArtifactError: the file is missing or not TorchScript Lite.
    """
    try:
        with _quiet_torch():
            return int(_get_model_bytecode_version(str(path)))
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path} is not a TorchScript Lite file: {error}") from error


@contextmanager
def _data_is_no_function(module: nn.Module) -> Iterator[None]:
    """Give plain attributes other identities where torch.jit would take them for functions.

    It knows builtin functions by ``id`` and keeps some ids of functions that are gone; a list of a
    convolution that lies where one lay is compiled as that function, and fails. Seen once in some
    hundred exports. The old values are kept meanwhile: their places must not be taken again.
    """
    kept: list[object] = []
    for part in list(module.modules()):
        for name, value in vars(part).items():
            while isinstance(value, list | tuple | dict) and _is_taken_for_a_function(value):
                kept.append(value)
                # A copy of a tuple is the tuple itself.
                value = (*[*value],) if isinstance(value, tuple) else copy.copy(value)
            vars(part)[name] = value
    yield
    kept.clear()


def _is_taken_for_a_function(value: object) -> bool:
    return _find_builtin(value) is not None  # type: ignore[no-untyped-call]


@contextmanager
def _quiet_torch() -> Iterator[None]:
    # torch.jit says on every call that it is deprecated: known, pinned, and kept in this file.
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
