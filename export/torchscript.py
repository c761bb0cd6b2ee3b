"""TorchScript Lite files (``.ptl``): the format that PyTorch's mobile interpreter runs.

What torch saves also holds the Python source and its debug tables, which the Lite interpreter never
reads, and names that depend on what the process compiled before. Both are left out here: a file is
smaller by a fifth to a third for shallow edges, and the same module gives the same bytes.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.jit.mobile import _get_model_bytecode_version

from records import files
from records.errors import ArtifactError, ExportError

#: Records that the writer adds itself.
_WRITERS_OWN = frozenset({"version", ".data/serialization_id"})
#: The counter that torch.jit puts into the name of a class that it compiled before.
_MANGLE = re.compile(rb"___torch_mangle_\d+\.?")


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
    with _quiet_torch():
        try:
            frozen = torch.jit.freeze(torch.jit.script(module.eval()))
            saved = frozen._save_to_buffer_for_lite_interpreter()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            name = type(module).__name__
            raise ExportError(f"torch.jit cannot compile {name}: {error}") from error
    files.write_bytes(path, _compact(saved))


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


def _compact(saved: bytes) -> bytes:
    """Return a saved Lite file without source and debug tables, under stable names."""
    target = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(target)
    with zipfile.ZipFile(io.BytesIO(saved)) as source:
        for name, data in _records(source):
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return target.getvalue()


def _records(source: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    mangled: set[bytes] = set()
    for entry in source.infolist():
        # torch names the archive's folder after the file, which is a temporary one.
        name = entry.filename.partition("/")[2]
        if name.startswith("code/") or name in _WRITERS_OWN:
            continue
        data = source.read(entry)
        if name.endswith(".pkl"):
            data = _without_mangling(data, mangled)
        yield name, data
    if len(mangled) > 1:
        raise ExportError("the frozen module still holds several classes of one name")


def _without_mangling(data: bytes, found: set[bytes]) -> bytes:
    """Return a pickle's bytes with the counters taken out of its class names; nothing is loaded.

    Args:
        data: a pickle of protocol 2, whose strings carry their own length and no frame does.
        found: collects the counters, so that two classes are never given one name.
    """
    starts = [(opcode.name, position) for opcode, _, position in pickletools.genops(data)]
    ends = [position for _, position in starts[1:]] + [len(data)]
    parts = []
    for (name, start), end in zip(starts, ends, strict=True):
        part = data[start:end]
        counters = _MANGLE.findall(part) if name in {"BINUNICODE", "GLOBAL"} else []
        if counters:
            found.update(counter.rstrip(b".") for counter in counters)
            part = _renamed(name, part)
        parts.append(part)
    return b"".join(parts)


def _renamed(opcode: str, part: bytes) -> bytes:
    if opcode == "GLOBAL":
        # "c<module>\n<class>\n": the counter is the module's last segment.
        return re.sub(rb"\.?" + _MANGLE.pattern, b"", part)
    text = _MANGLE.sub(b"", part[5:])
    return part[:1] + len(text).to_bytes(4, "little") + text


@contextmanager
def _quiet_torch() -> Iterator[None]:
    # torch.jit says on every call that it is deprecated: known, pinned, and kept in this file.
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
