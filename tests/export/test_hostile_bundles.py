"""Over two hundred corrupted bundles: each is refused by name, none runs anything, none crashes.

Every case copies one good bundle, corrupts the copy (seeded), and loads it in this process; a
sample goes through the command line as well. Cases called ``sealed`` have every hash and the seal
made right again, as an attacker would. What cannot be seen without a signature, other valid
weights under a valid seal, is in ``test_bundle``.
"""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251 - makes hostile bytes; nothing is loaded
import random
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load, save

from export import bundle_errors as errors
from export.bundle import load_bundle
from records.errors import BundleError
from records.manifest import MANIFEST_NAME
from tests.export.hostile import (
    FILES,
    LITE,
    ONNX,
    Edit,
    Tree,
    artifact_of,
    change,
    edit_and_seal,
    edit_only,
    rehash,
    swap,
)
from tests.export.lite_files import put_together, taken_apart
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import nn

ROOT = Path(__file__).resolve().parents[2]
TENSORS, GRAPH = "eager_int8.safetensors", "eager_int8.json"
MARKER_VARIABLE = "EDGEVEIL_TEST_MARKER"

Corrupt = Callable[[Path, random.Random], Any]
Refusal = type[BundleError] | tuple[type[BundleError], ...]

DAMAGED: tuple[type[BundleError], ...] = (errors.HashMismatchError, errors.BundleFilesError)
MANIFEST: tuple[type[BundleError], ...] = (errors.ManifestError, errors.SealError)
PARSED: tuple[type[BundleError], ...] = (
    errors.MalformedArtifactError,
    errors.DisguisedFileError,
    errors.ArtifactMismatchError,
    errors.UnsafePickleError,
)


@dataclass(frozen=True)
class Case:
    name: str
    corrupt: Corrupt
    refusal: Refusal


def cases() -> Iterator[Case]:
    yield from damaged_files()
    yield from swapped_files()
    yield from edited_seals()
    yield from contradictions()
    yield from json_tricks()
    yield from folder_tricks()
    yield from poisoned_weights()
    yield from poisoned_onnx()
    yield from pickles()
    yield from archives()


def bytes_of(file: str, edit: Callable[[bytes], bytes], *, seal: bool = True) -> Corrupt:
    return lambda folder, _: change(folder, file, edit, seal=seal)


def drawn(file: str, edit: Callable[[bytes, random.Random], bytes], *, seal: bool) -> Corrupt:
    return lambda folder, rng: change(folder, file, lambda data: edit(data, rng), seal=seal)


def manifest_of(edit: Edit, *, seal: bool = True) -> Corrupt:
    return lambda folder, _: (edit_and_seal if seal else edit_only)(folder, edit)


def entry_of(file: str, key: str, value: Any) -> Edit:
    return lambda tree: artifact_of(tree, file).update({key: value})


# Damage without and with a new seal.


def flip(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def damaged_files() -> Iterator[Case]:
    edits: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda d: b"",
        "half": lambda d: d[: len(d) // 2],
        "two less": lambda d: d[:-2],
        "one more": lambda d: d + b"\0",
        "twice": lambda d: d + d,
    }
    for file in (*FILES.values(), MANIFEST_NAME):
        refusal = MANIFEST if file == MANIFEST_NAME else DAMAGED
        for k in range(4):
            yield Case(f"flip {file} {k}", drawn(file, flip, seal=False), refusal)
        for name, edit in edits.items():
            yield Case(f"{name} {file}", bytes_of(file, edit, seal=False), refusal)
            if file != MANIFEST_NAME:
                sealed = (*PARSED, errors.ManifestError)
                yield Case(f"{name} {file} sealed", bytes_of(file, edit), sealed)


def swapped(first: str, second: str, *, seal: bool) -> Corrupt:
    return lambda folder, _: swap(folder, first, second, seal=seal)


def swapped_files() -> Iterator[Case]:
    pairs = [(a, b) for files in (LITE, ONNX) for a in files for b in files if a < b]
    pairs += [(GRAPH, TENSORS), ("edge_fp32.ptl", "edge_fp32.onnx"), (TENSORS, "server_fp32.onnx")]
    for a, b in pairs:
        yield Case(f"swap {a} {b}", swapped(a, b, seal=False), DAMAGED)
        yield Case(f"swap {a} {b} sealed", swapped(a, b, seal=True), PARSED)


# The manifest: edited with its old seal, and edited with a new one.


def edited_seals() -> Iterator[Case]:
    for file in FILES.values():
        for key, value in (("sha256", 64 * "0"), ("size", 12345)):
            edit = entry_of(file, key, value)
            yield Case(f"{key} of {file}", manifest_of(edit, seal=False), errors.SealError)
            yield Case(f"{key} of {file} sealed", manifest_of(edit), DAMAGED)
    for key, text in (("split", "block1"), ("bundle_id", 64 * "0"), ("engine", "x86")):
        edit = put(key, text)
        yield Case(f"{key} with the old seal", manifest_of(edit, seal=False), errors.SealError)
    no_hash = manifest_of(put("bundle_id", "not a hash"), seal=False)
    yield Case("bundle_id is no hash", no_hash, errors.ManifestError)


def put(path: str, value: Any) -> Edit:
    """Set one entry of the manifest, such as ``wire.scale`` or ``artifacts.0.file``."""

    def edit(tree: Tree) -> None:
        target: Any = tree
        *parents, last = path.split(".")
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[int(last) if last.isdigit() else last] = value

    return edit


def every_artifact(key: str, value: Any) -> Edit:
    return lambda t: [a.update({key: value}) for a in t["artifacts"]]


def wire_shape(shape: list[int]) -> Edit:
    """Change the boundary consistently everywhere in the manifest."""

    def edit(tree: Tree) -> None:
        tree["boundary"]["shape"] = tree["wire"]["shape"] = shape
        for artifact in tree["artifacts"]:
            end = "input" if artifact["role"] == "server" else "output"
            artifact[end]["shape"] = shape

    return edit


VALUES_OF_NO_BUNDLE: tuple[tuple[str, Any], ...] = (
    ("schema", "edgeveil.bundle/2"),
    ("schema", None),
    ("checkpoint_sha256", 64 * "A"),
    ("checkpoint_sha256", 64 * "0" + "\n"),
    ("split", "features/3"),
    ("split", "../../etc"),
    ("split", "a" * 300),
    ("split", 3),
    ("wire.scale", 0.0),
    ("wire.scale", -0.1),
    ("wire.scale", "0.1"),
    ("wire.scale", None),
    ("wire.zero_point", 256),
    ("wire.zero_point", -1),
    ("wire.zero_point", 3.5),
    ("wire.zero_point", 10**30),
    ("wire.dtype", "int8"),
    ("wire.shape", []),
    ("wire.shape", [0, 8, 8]),
    ("wire.shape", [-16, 8, 8]),
    ("wire.shape", [10**9, 8, 8]),
    ("wire.shape", [16, 8, 8, 1, 1]),
    ("boundary.dtype", "float64"),
    ("input.shape", "3,32,32"),
    ("artifacts", []),
    ("artifacts", {}),
    ("artifacts.0", None),
    ("artifacts.0.size", 0),
    ("artifacts.0.size", -1),
    ("artifacts.0.size", 10**18),
    ("artifacts.0.format", "pickle"),
    ("artifacts.0.role", "attacker"),
    ("artifacts.0.weight_bytes", -1),
    ("artifacts.0.opset", "17"),
    ("preprocessing.std", [0.0]),
    ("recipe", []),
    ("recipe.schema", 2),
    ("recipe.export.opset", 5),
    ("recipe.unknown", 1),
    ("recipe.data.source", "pickle:x"),
    ("recipe.export.splits", []),
    ("data", None),
    ("data.classes", [1]),
    ("data.victim.count", -1),
    ("data.victim.sha256", "x"),
    ("versions", []),
    ("float_nodes", [1]),
    ("qparams", [{"tensor": "x"}]),
    ("extra", 1),
    *(
        ("artifacts.0.file", name)
        for name in (
            "../edge_fp32.ptl",
            "/etc/passwd",
            "..",
            ".hidden",
            "a/b.ptl",
            "a\\b.ptl",
            "C:\\x.ptl",
            "",
            "a\0b",
            "x" * 200,
            "edge_fp32.ptl\n",
            "edge_fp32.ptl ",
            "ｅdge_fp32.ptl",
        )
    ),
)

CONTRADICTIONS: dict[str, tuple[Edit, Refusal]] = {
    **{
        f"{path} = {value!r:.40}": (put(path, value), errors.ManifestError)
        for path, value in VALUES_OF_NO_BUNDLE
    },
    **{
        f"{name} sealed": (edit, errors.InconsistentManifestError)
        for name, edit in {
            "denormal scale": put("wire.scale", 1e-42),
            "scale beyond float32": put("wire.scale", 1e39),
            "wire shape": put("wire.shape", [16, 8, 9]),
            "boundary shape": put("boundary.shape", [16, 8, 9]),
            "boundary dtype": put("boundary.dtype", "uint8"),
            "boundary name": put("boundary.name", "features"),
            "boundary of 2^60 values": wire_shape([1 << 20, 1 << 20, 1 << 20]),
            "input shape": put("input.shape", [3, 64, 64]),
            "input channels": put("input.shape", [1, 32, 32]),
            "input name": put("input.name", "image"),
            "output shape": put("output.shape", [8, 1]),
            "output name": put("output.name", "probabilities"),
            "image size": put("preprocessing.image_size", 64),
            "native size": put("preprocessing.native_size", 64),
            "mean": put("preprocessing.mean", [0.0, 0.0, 0.0]),
            "std": put("preprocessing.std", [1.0, 1.0, 0.0]),
            "no calibration": put("data.calibration.count", 0),
            "no classes": put("data.classes", []),
            "other file name": put("artifacts.0.file", "edge_int9.ptl"),
            "upper-case file name": put("artifacts.1.file", "EDGE_FP32.PTL"),
            "one file twice": put("artifacts.1.file", "edge_fp32.ptl"),
            "manifest as artifact": put("artifacts.0.file", MANIFEST_NAME),
            "one artifact twice": lambda t: t["artifacts"].append(t["artifacts"][0]),
            "unknown artifact": put("artifacts.0.name", "edge_int4_lite"),
            "missing artifact": lambda t: t["artifacts"].pop(),
            "only one artifact": lambda t: t.update(artifacts=t["artifacts"][:1]),
            "role": put("artifacts.0.role", "server"),
            "format": put("artifacts.0.format", "onnx"),
            "precision": put("artifacts.0.precision", "int8"),
            "boundary": put("artifacts.0.boundary", "wire"),
            "opset of a .ptl": put("artifacts.0.opset", 17),
            "no bytecode version": put("artifacts.0.bytecode_version", None),
            "no opset": put("artifacts.3.opset", None),
            "weights larger than the file": put("artifacts.0.weight_bytes", 10**15),
            "artifact input": put("artifacts.0.input.shape", [3, 16, 16]),
            "artifact output dtype": put("artifacts.0.output.dtype", "uint8"),
            "artifact output": put("artifacts.3.output.shape", [16, 4, 4]),
            "every output renamed": lambda t: [
                a["output"].update(name="x") for a in t["artifacts"]
            ],
            "all int8": every_artifact("precision", "int8"),
            "negative qparam scale": lambda t: t["qparams"][0].update(scale=-1.0),
            "qparam zero point": lambda t: t["qparams"][0].update(zero_point=10**6),
            "qparam twice": lambda t: t["qparams"].append(t["qparams"][0]),
            "a million threads": put("recipe.bench.threads", [10**6]),
            "endless bench": put("recipe.bench.seconds", 1e12),
            "batch of 2^40": put("recipe.check.batch_size", 1 << 40),
        }.items()
    },
    **{
        f"{name} sealed": (edit, errors.ArtifactMismatchError)
        for name, edit in {
            "other scale": put("wire.scale", 0.123),
            "scale one bit off": lambda t: t["wire"].update(
                scale=float(np.nextafter(np.float32(t["wire"]["scale"]), np.float32(1)))
            ),
            "other zero point": lambda t: t["wire"].update(
                zero_point=(t["wire"]["zero_point"] + 1) % 256
            ),
            "other boundary everywhere": wire_shape([8, 16, 8]),
            "flat boundary everywhere": wire_shape([1024]),
            "other bytecode version": put("artifacts.0.bytecode_version", 7),
            "other opset": put("artifacts.3.opset", 18),
            "other logits": lambda t: (
                t["output"].update(shape=[9]),
                artifact_of(t, "server_fp32.onnx")["output"].update(shape=[9]),
            ),
        }.items()
    },
}


def contradictions() -> Iterator[Case]:
    for name, (edit, refusal) in CONTRADICTIONS.items():
        yield Case(name, manifest_of(edit), refusal)


def json_tricks() -> Iterator[Case]:
    tricks: dict[str, Callable[[bytes], bytes]] = {
        "NaN scale": lambda d: d.replace(b'"scale": 0', b'"scale": NaN, "x": 0'),
        "Infinity": lambda d: d.replace(b'"schema": 1', b'"schema": Infinity'),
        "scale 1e999": lambda d: d.replace(b'"scale": 0.', b'"scale": 1e999, "x": 0.', 1),
        "duplicate key": lambda d: d.replace(b'"engine"', b'"engine": "x86",\n  "engine"'),
        "duplicate bundle_id": lambda d: d.replace(
            b'"bundle_id"', b'"bundle_id": "' + 64 * b"0" + b'",\n  "bundle_id"'
        ),
        "deep lists": lambda d: b"[" * 1_000_000,
        "deep objects": lambda d: b'{"a":' * 200_000,
        "deep value": lambda d: d.replace(b'"float_nodes": ', b'"float_nodes": ' + b"[" * 50_000),
        "huge integer": lambda d: d.replace(b'"schema": 1', b'"schema": ' + b"9" * 100_000),
        "huge count": lambda d: d.replace(b'"count": ', b'"count": ' + b"9" * 5000, 1),
        "byte order mark": lambda d: b"\xef\xbb\xbf" + d,
        "UTF-16": lambda d: d.decode().encode("utf-16"),
        "invalid UTF-8": lambda d: d.replace(b"qnnpack", b"qnn\xff\xfe"),
        "null byte": lambda d: d.replace(b"qnnpack", b"qnn\0"),
        "trailing comma": lambda d: d.replace(b"\n}\n", b",\n}\n"),
        "two documents": lambda d: d + d,
        "CRLF": lambda d: d.replace(b"\n", b"\r\n"),
        "other white space": lambda d: d.replace(b"  ", b"\t"),
        "escaped text": lambda d: d.replace(b"qnnpack", rb"qnn\u0070ack"),
        "other spelling of a number": lambda d: d.replace(b"0.5", b"5e-1"),
        "comment": lambda d: b"// bundle\n" + d,
        "null": lambda d: b"null",
        "a text": lambda d: b'"manifest"',
        "a list": lambda d: b"[" + d + b"]",
        "spaces": lambda d: b" " * 1000,
    }
    for name, edit in tricks.items():
        corrupt = bytes_of(MANIFEST_NAME, edit, seal=False)
        yield Case(f"manifest: {name}", corrupt, errors.ManifestError)
    padded = bytes_of(MANIFEST_NAME, lambda d: d + b" " * 5_000_000, seal=False)
    yield Case("manifest: 5 MB", padded, errors.BundleFilesError)


# The folder.


def to_link(file: str, *, hard: bool) -> Corrupt:
    def corrupt(folder: Path, _: random.Random) -> None:
        outside = folder.parent / f"outside-{file}"
        shutil.move(folder / file, outside)
        if hard:
            (folder / file).hardlink_to(outside)
        else:
            (folder / file).symlink_to(outside)

    return corrupt


def replaced(file: str, make: Callable[[Path], Any]) -> Corrupt:
    def corrupt(folder: Path, _: random.Random) -> None:
        (folder / file).unlink()
        make(folder / file)

    return corrupt


def added(name: str) -> Corrupt:
    return lambda folder, _: (folder / name).write_bytes(b"x")


def removed(name: str) -> Corrupt:
    return lambda folder, _: (folder / name).unlink()


def stretched(file: str, size: int, *, seal: bool) -> Corrupt:
    """Make a sparse file of that size, which costs nothing unless it is read."""

    def corrupt(folder: Path, _: random.Random) -> None:
        os.truncate(folder / file, size)
        if seal:
            edit_and_seal(folder, entry_of(file, "size", size))

    return corrupt


def folder_tricks() -> Iterator[Case]:
    wrong = errors.BundleFilesError
    for file in ("edge_fp32.ptl", "server_fp32.onnx", TENSORS, GRAPH, MANIFEST_NAME):
        yield Case(f"symbolic link {file}", to_link(file, hard=False), wrong)
        yield Case(f"hard link {file}", to_link(file, hard=True), wrong)
    for file in FILES.values():
        yield Case(f"missing {file}", removed(file), wrong)
    for name in ("extra.onnx", ".hidden", "manifest.json.bak", "__init__.py", "a.PTL", "..."):
        yield Case(f"extra {name}", added(name), wrong)
    yield Case("extra folder", lambda f, _: (f / "more").mkdir(), wrong)
    yield Case("no manifest", removed(MANIFEST_NAME), errors.ManifestError)
    kinds: dict[str, Callable[[Path], Any]] = {
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "link to nothing": lambda p: p.symlink_to("nowhere"),
        "link to a device": lambda p: p.symlink_to("/dev/zero"),
    }
    for file in ("edge_int8.ptl", MANIFEST_NAME):
        for kind, make in kinds.items():
            yield Case(f"{kind} as {file}", replaced(file, make), (wrong, errors.ManifestError))
    big = "edge_int8.onnx"
    yield Case(f"8 GiB of nothing as {big}", stretched(big, 8 << 30, seal=False), wrong)
    yield Case(f"2 GiB of nothing as {big} sealed", stretched(big, 2 << 30, seal=True), wrong)


# Weights that are no numbers, under a valid seal.


def poison_onnx(data: bytes, value: float, rng: random.Random) -> bytes:
    model = onnx.load_model_from_string(data)
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    tensor = rng.choice(floats)
    array = numpy_helper.to_array(tensor).copy()
    array.ravel()[rng.randrange(array.size)] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    result: bytes = model.SerializeToString()
    return result


def poison_lite(data: bytes, value: float, rng: random.Random) -> bytes:
    members = taken_apart(data)
    names = [n for n in members if n.startswith("constants/") and len(members[n]) >= 64]
    for name in rng.sample(names, len(names)):
        array = np.frombuffer(members[name], "<f4")
        if np.isfinite(array).all() and np.abs(array).max() < 100 and np.abs(array).min() > 1e-12:
            pattern = np.array([value], "<f4").tobytes()
            return put_together({**members, name: pattern + members[name][4:]})
    raise AssertionError("no float storage found")


def poison_safetensors(data: bytes, value: float, _: random.Random) -> bytes:
    arrays = load(data)
    name = next(n for n, a in arrays.items() if a.dtype.kind == "f" and a.size)
    array = arrays[name].copy()
    array.ravel()[-1] = value
    return save({**arrays, name: array})


def poisoned_weights() -> Iterator[Case]:
    poisons: dict[str, Callable[[bytes, float, random.Random], bytes]]
    poisons = dict.fromkeys(ONNX, poison_onnx)
    poisons |= {"edge_fp32.ptl": poison_lite, TENSORS: poison_safetensors}
    for value in (float("nan"), float("inf"), float("-inf")):
        for file, poison in poisons.items():
            yield Case(
                f"{value} in {file}", poisoned(file, poison, value), errors.NonFiniteWeightsError
            )


def poisoned(
    file: str, poison: Callable[[bytes, float, random.Random], bytes], value: float
) -> Corrupt:
    return drawn(file, lambda data, rng: poison(data, value, rng), seal=True)


# ONNX that would do more than compute.


def branch() -> onnx.GraphProto:
    out = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N"])
    return helper.make_graph([helper.make_node("Relu", ["input"], ["b"])], "branch", [], [out])


def add_node(operator: str, domain: str = "", **values: Any) -> Callable[[onnx.ModelProto], Any]:
    def edit(model: onnx.ModelProto) -> None:
        node = helper.make_node(operator, ["input"], ["extra"], domain=domain, **values)
        model.graph.node.append(node)

    return edit


def external(location: str) -> Callable[[onnx.ModelProto], Any]:
    def edit(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return edit


def poisoned_onnx() -> Iterator[Case]:
    unsafe, outside = errors.UnsafeOperatorError, errors.ExternalDataError
    edits: dict[str, tuple[Callable[[onnx.ModelProto], Any], Refusal]] = {
        "If": (add_node("If", then_branch=branch(), else_branch=branch()), unsafe),
        "Loop": (add_node("Loop", body=branch()), unsafe),
        "Scan": (add_node("Scan", body=branch(), num_scan_inputs=1), unsafe),
        "custom domain": (add_node("Run", "evil.example"), unsafe),
        "imported domain": (
            lambda m: m.opset_import.append(helper.make_opsetid("evil.example", 1)),
            unsafe,
        ),
        "function": (lambda m: m.functions.add(name="Evil", domain="x"), unsafe),
        "external weights": (external("weights.bin"), outside),
        "external password file": (external("../../../../etc/passwd"), outside),
        "external absolute": (external("/etc/shadow"), outside),
        "absurd dimensions": (
            lambda m: m.graph.initializer[0].dims.append(1 << 62),
            errors.MalformedArtifactError,
        ),
        "weights missing": (
            lambda m: m.graph.initializer[0].ClearField("raw_data"),
            errors.MalformedArtifactError,
        ),
    }
    for name, (edit, refusal) in edits.items():
        for file in ("edge_int8.onnx", "server_fp32.onnx"):
            yield Case(f"{name} in {file}", bytes_of(file, edited(edit)), refusal)


def edited(edit: Callable[[onnx.ModelProto], Any]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        edit(model)
        result: bytes = model.SerializeToString()
        return result

    return apply


# Pickles in disguise. Loading any of them with pickle would create the marker file.


class Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f'touch "${MARKER_VARIABLE}"',)


def payload(protocol: int) -> bytes:
    return pickle.dumps(Payload(), protocol=protocol)


def torch_saved() -> bytes:
    target = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, target)
    return target.getvalue()


def full_torchscript() -> bytes:
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), target)
    return target.getvalue()


def pickled(protocol: int) -> Callable[[bytes], bytes]:
    return lambda _: payload(protocol)


def pickled_member(member: str, protocol: int) -> Callable[[bytes], bytes]:
    return lambda data: put_together({**taken_apart(data), member: payload(protocol)})


def pickles() -> Iterator[Case]:
    disguised = (errors.DisguisedFileError, errors.MalformedArtifactError)
    unsafe = (errors.UnsafePickleError, errors.MalformedArtifactError)
    for file in FILES.values():
        for k in (0, 2, 4):
            name = f"pickle of protocol {k} as {file}"
            yield Case(name, bytes_of(file, pickled(k)), disguised)
    for file in LITE:
        for member in ("data.pkl", "constants.pkl", "bytecode.pkl"):
            for k in (2, 4):
                name = f"payload of protocol {k} as {member} of {file}"
                yield Case(name, bytes_of(file, pickled_member(member, k)), unsafe)
    manifest = bytes_of(MANIFEST_NAME, pickled(0), seal=False)
    yield Case("payload as the manifest", manifest, errors.ManifestError)
    lite = "edge_fp32.ptl"
    yield Case(f"torch checkpoint as {lite}", bytes_of(lite, lambda _: torch_saved()), PARSED)
    yield Case(f"TorchScript as {lite}", bytes_of(lite, lambda _: full_torchscript()), PARSED)
    for file in ("edge_int8.onnx", TENSORS):
        corrupt = bytes_of(file, lambda _: torch_saved())
        yield Case(f"torch checkpoint as {file}", corrupt, errors.DisguisedFileError)


# Archives.


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as writer:
        for name, content in members.items():
            writer.writestr(name, content)
    return target.getvalue()


def archives() -> Iterator[Case]:
    tricks: dict[str, Callable[[dict[str, bytes]], bytes]] = {
        "bomb": lambda m: archive({"a/data.pkl": b"\0" * 50_000_000}, zipfile.ZIP_DEFLATED),
        "compressed": lambda m: archive({f"a/{n}": c for n, c in m.items()}, zipfile.ZIP_DEFLATED),
        "25,000 members": lambda m: archive({f"a/{k}": b"" for k in range(25_000)}),
        "path traversal": lambda m: put_together({**m, "../../../tmp/evil": b"x"}),
        "absolute member": lambda m: archive({**{f"a/{n}": c for n, c in m.items()}, "/evil": b""}),
        "source code": lambda m: put_together({**m, "code/__torch__.py": b"import os"}),
        "no bytecode": lambda m: put_together({n: c for n, c in m.items() if n != "bytecode.pkl"}),
        "data before it": lambda m: b"#!/bin/sh\n" + put_together(m),
        "data after it": lambda m: put_together(m) + b"evil",
        "empty": lambda m: archive({}),
        "only a directory": lambda m: archive({"a/": b""}),
    }
    for name, edit in tricks.items():
        yield Case(f"archive: {name}", repacked(edit), PARSED)


def repacked(edit: Callable[[dict[str, bytes]], bytes]) -> Corrupt:
    return bytes_of("edge_int8.ptl", lambda data: edit(taken_apart(data)))


CASES = {case.name: case for case in cases()}


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@pytest.fixture(scope="module")
def good(
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("good"), tiny_model, tiny_images)[0].folder


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MARKER_VARIABLE, str(tmp_path / "executed"))
    return tmp_path / "executed"


def corrupted(good: Path, folder: Path, case: Case) -> Path:
    shutil.copytree(good, folder)
    case.corrupt(folder, random.Random(case.name))
    return folder


def test_there_are_at_least_two_hundred_cases() -> None:
    assert len(CASES) >= 200


def test_the_good_bundle_loads_and_so_does_a_copy_sealed_again(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "copy")
    rehash(tmp_path / "copy")
    assert load_bundle(tmp_path / "copy").manifest == load_bundle(good).manifest


@pytest.mark.parametrize("file", ["edge_int8.ptl", "server_fp32.onnx", TENSORS])
def test_the_same_edits_without_the_poison_load(good: Path, tmp_path: Path, file: str) -> None:
    """So what is refused above is refused for what was planted, not for how it was planted."""
    repack: dict[str, Callable[[bytes], bytes]] = {
        "edge_int8.ptl": lambda d: put_together(taken_apart(d)),
        "server_fp32.onnx": edited(lambda m: None),
        TENSORS: lambda d: save(load(d)),
    }
    shutil.copytree(good, tmp_path / "copy")
    change(tmp_path / "copy", file, repack[file], seal=True)
    load_bundle(tmp_path / "copy")


def test_the_payload_would_run_if_it_were_unpickled(marker: Path) -> None:
    """The positive control: without it, no marker would prove nothing."""
    program = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    for protocol in (0, 2, 4):
        subprocess.run([sys.executable, "-c", program], input=payload(protocol), check=True)
        assert marker.exists()
        marker.unlink()


@pytest.mark.parametrize("name", CASES)
def test_a_corrupted_bundle_is_refused_by_name(
    good: Path, tmp_path: Path, marker: Path, name: str
) -> None:
    case = CASES[name]
    folder = corrupted(good, tmp_path / "bundle", case)
    with at_most(20), pytest.raises(case.refusal) as refusal:
        load_bundle(folder)
    text = str(refusal.value)
    assert type(refusal.value) is not BundleError
    assert "\n" not in text
    assert str(tmp_path) in text or MANIFEST_NAME in text
    assert len(text) < 1500
    assert not marker.exists()


def test_random_sealed_damage_is_refused_or_is_valid_and_nothing_else_is_raised(
    good: Path, tmp_path: Path
) -> None:
    """With hashes made right, one changed byte may be another valid weight, and no more."""
    rng = random.Random(0)
    folder = tmp_path / "bundle"
    shutil.copytree(good, folder)
    refused = 0
    for _ in range(80):
        file = rng.choice(list(FILES.values()))
        kept = (folder / file).read_bytes()
        change(folder, file, lambda data: flip(data, rng), seal=True)
        with at_most(20):
            try:
                load_bundle(folder)
            except BundleError:
                refused += 1
        (folder / file).write_bytes(kept)
    assert refused > 40


COMMAND_LINE = [
    "flip edge_int8.ptl 0",
    "half server_fp32.onnx sealed",
    "swap edge_fp32.ptl edge_int8.ptl sealed",
    "other scale sealed",
    "artifacts.0.file = '../edge_fp32.ptl'",
    "manifest: deep lists",
    "manifest: NaN scale",
    "symbolic link edge_fp32.ptl",
    "nan in edge_int8.onnx",
    "external password file in edge_int8.onnx",
    "payload of protocol 2 as data.pkl of edge_int8.ptl",
    f"pickle of protocol 4 as {TENSORS}",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMAND_LINE)
def test_the_command_line_refuses_with_exit_code_1(
    good: Path, tmp_path: Path, marker: Path, name: str
) -> None:
    folder = corrupted(good, tmp_path / "bundle", CASES[name])
    verb = "check" if COMMAND_LINE.index(name) % 4 == 0 else "bench"
    done = subprocess.run(
        [sys.executable, "-m", "edgeveil", verb, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("edgeveil: ")
    assert done.stderr.split()[1].endswith("Error:")
    assert not marker.exists()
