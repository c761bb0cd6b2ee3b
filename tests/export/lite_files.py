"""Real TorchScript Lite files of the tiny network, taken apart and put together again."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from baseline.split import split_network
from export.quantize import quantize_edge
from export.torchscript import bytecode_version, write_lite
from export.zip_members import read_members
from records.manifest import Artifact, TensorSpec
from records.recipe import ExportRecipe

if TYPE_CHECKING:
    from torch import nn

SPLIT = "block2"


def write_edges(folder: Path, model: nn.Module) -> dict[str, Path]:
    """Write the tiny edge as fp32.ptl, int8.ptl and wire.ptl; return their paths by stem."""
    split = split_network(model, SPLIT)
    batch = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    quantized = quantize_edge(split.edge, [batch], ExportRecipe())
    modules = {"fp32": split.edge, "int8": quantized.float_boundary, "wire": quantized.wire}
    paths = {name: folder / f"{name}.ptl" for name in modules}
    for name, module in modules.items():
        write_lite(module, paths[name])
    return paths


def lite_artifact(path: Path) -> Artifact:
    """Return what a manifest would say of a file; shapes are not looked at by the scan."""
    return Artifact(
        name="edge_int8_lite",
        file="edge_int8.ptl",
        format="torchscript-lite",
        role="edge",
        precision="int8",
        boundary="float",
        sha256=64 * "0",
        size=path.stat().st_size,
        weight_bytes=0,
        input=TensorSpec(name="input", shape=(3, 32, 32), dtype="float32"),
        output=TensorSpec(name="boundary", shape=(16, 8, 8), dtype="float32"),
        bytecode_version=bytecode_version(path),
    )


def taken_apart(data: bytes) -> dict[str, bytes]:
    """Return the members without the top folder."""
    return {n.partition("/")[2]: bytes(c) for n, c in read_members(data).items()}


def put_together(members: dict[str, bytes]) -> bytes:
    """Return an uncompressed archive of the members under the folder ``archive``."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as writer:
        for name, content in members.items():
            writer.writestr(f"archive/{name}", content)
    return target.getvalue()


def with_members(data: bytes, **changes: bytes | None) -> bytes:
    """Return the archive with members replaced, added, or (None) removed.

    A member's ``/`` is written ``__`` and its last ``.`` is written ``_dot_``.
    """
    members = taken_apart(data)
    for key, content in changes.items():
        name = key.replace("_dot_", ".").replace("__", "/")
        if content is None:
            members.pop(name)
        else:
            members[name] = content
    return put_together(members)
