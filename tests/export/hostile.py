"""Ways to corrupt a copy of a good bundle, with and without making its hashes right again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from export.manifest_seal import bundle_id_of
from records.hashing import sha256_file
from records.manifest import MANIFEST_NAME

FILES = {
    "edge_fp32_lite": "edge_fp32.ptl",
    "edge_int8_lite": "edge_int8.ptl",
    "edge_int8_wire_lite": "edge_int8_wire.ptl",
    "edge_fp32_onnx": "edge_fp32.onnx",
    "edge_int8_onnx": "edge_int8.onnx",
    "edge_int8_wire_onnx": "edge_int8_wire.onnx",
    "server_fp32_onnx": "server_fp32.onnx",
    "eager_int8_graph": "eager_int8.json",
    "eager_int8_tensors": "eager_int8.safetensors",
}
LITE = [file for file in FILES.values() if file.endswith(".ptl")]
ONNX = [file for file in FILES.values() if file.endswith(".onnx")]

Tree = dict[str, Any]
Edit = Callable[[Tree], Any]


def read_tree(folder: Path) -> Tree:
    """Return the manifest as builtin JSON data."""
    tree: Tree = json.loads((folder / MANIFEST_NAME).read_text())
    return tree


def write_tree(folder: Path, tree: Tree) -> None:
    """Write a manifest in its canonical form, as it is."""
    text = msgspec.json.format(msgspec.json.encode(tree, order="sorted"), indent=2) + b"\n"
    (folder / MANIFEST_NAME).write_bytes(text)


def edit_only(folder: Path, edit: Edit) -> None:
    """Edit the manifest and leave its seal as it was."""
    tree = read_tree(folder)
    edit(tree)
    write_tree(folder, tree)


def edit_and_seal(folder: Path, edit: Edit) -> None:
    """Edit the manifest and compute its seal again."""
    tree = read_tree(folder)
    edit(tree)
    tree["bundle_id"] = bundle_id_of(tree)
    write_tree(folder, tree)


def rehash(folder: Path) -> None:
    """Make sizes, hashes and seal right for whatever the files now are; claim no more weights."""

    def measure(tree: Tree) -> None:
        for artifact in tree["artifacts"]:
            path = folder / artifact["file"]
            size = path.stat().st_size
            artifact |= {"sha256": sha256_file(path), "size": size}
            artifact["weight_bytes"] = min(artifact["weight_bytes"], size)

    edit_and_seal(folder, measure)


def artifact_of(tree: Tree, file: str) -> Tree:
    """Return the manifest's entry of a file."""
    found: Tree = next(a for a in tree["artifacts"] if a["file"] == file)
    return found


def change(folder: Path, file: str, edit: Callable[[bytes], bytes], *, seal: bool) -> None:
    """Replace a file's bytes; with ``seal`` make the manifest agree."""
    path = folder / file
    path.write_bytes(edit(path.read_bytes()))
    if seal:
        rehash(folder)


def swap(folder: Path, first: str, second: str, *, seal: bool) -> None:
    """Exchange two files' contents."""
    one, two = (folder / first).read_bytes(), (folder / second).read_bytes()
    (folder / first).write_bytes(two)
    (folder / second).write_bytes(one)
    if seal:
        rehash(folder)
