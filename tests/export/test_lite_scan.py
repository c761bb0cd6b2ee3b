"""The Lite scan on real files, and on real files with one thing wrong."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - makes hostile bytes; nothing is loaded
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
from torch.jit.mobile import _load_for_lite_interpreter

from export.bundle_errors import (
    ArtifactMismatchError,
    MalformedArtifactError,
    NonFiniteWeightsError,
    UnsafeOperatorError,
    UnsafePickleError,
)
from export.lite_bytecode import BytecodeError, ForbiddenOperatorError, check_bytecode
from export.lite_operators import OPERATORS
from export.lite_scan import scan_lite
from export.pickle_walk import AllowList, walk
from records.errors import BundleError
from tests.export.lite_files import lite_artifact, put_together, taken_apart, write_edges

if TYPE_CHECKING:
    from torch import nn

    from records.manifest import Artifact

EVERYTHING = AllowList(*[lambda _: True] * 3)


@pytest.fixture(scope="module")
def edges(tiny_model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_edges(tmp_path_factory.mktemp("lite"), tiny_model)


@pytest.fixture(scope="module")
def artifact(edges: dict[str, Path]) -> Artifact:
    return lite_artifact(edges["int8"])


@pytest.fixture(scope="module")
def members(edges: dict[str, Path]) -> dict[str, bytes]:
    return taken_apart(edges["int8"].read_bytes())


@pytest.fixture(scope="module")
def table(members: dict[str, bytes]) -> Any:
    return walk(members["bytecode.pkl"], EVERYTHING).value


def as_claimed(artifact: Artifact, name: str) -> Artifact:
    return msgspec.structs.replace(
        artifact,
        precision="fp32" if name == "fp32" else "int8",
        boundary="wire" if name == "wire" else "float",
    )


@pytest.mark.parametrize("name", ["fp32", "int8", "wire"])
@pytest.mark.parametrize("claim", ["fp32", "int8", "wire"])
def test_a_file_is_taken_only_for_what_it_is(
    edges: dict[str, Path], artifact: Artifact, name: str, claim: str
) -> None:
    data = edges[name].read_bytes()
    if name == claim:
        scan_lite(data, as_claimed(artifact, claim), name)
    else:
        with pytest.raises(ArtifactMismatchError, match="boundary"):
            scan_lite(data, as_claimed(artifact, claim), name)


@pytest.mark.parametrize("name", ["fp32", "int8", "wire"])
def test_real_files_pass_and_so_does_the_archive_put_together_again(
    edges: dict[str, Path], artifact: Artifact, name: str
) -> None:
    data = edges[name].read_bytes()
    claimed = as_claimed(artifact, name)
    scan_lite(data, claimed, name)
    again = put_together(taken_apart(data))
    scan_lite(again, claimed, name)
    # So what is refused below is refused for what was changed, not for how it was packed.
    edges[name].with_suffix(".again").write_bytes(again)
    load: Callable[[str], Any] = _load_for_lite_interpreter
    module = load(str(edges[name].with_suffix(".again")))
    assert module(torch.zeros(2, 3, 32, 32)).shape[0] == 2


def test_the_constants_that_torch_adds_for_its_source_are_scanned_and_never_needed(
    members: dict[str, bytes], artifact: Artifact
) -> None:
    assert "constants.pkl" not in members
    scan_lite(put_together({**members, "constants.pkl": b"\x80\x02)."}), artifact, "old.ptl")
    with pytest.raises(MalformedArtifactError, match="constants"):
        scan_lite(put_together({**members, "constants.pkl": b"\x80\x02("}), artifact, "bad.ptl")


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["data.pkl", "constants.pkl", "bytecode.pkl"])
def test_a_payload_in_a_pickle_is_refused_and_not_run(
    members: dict[str, bytes], artifact: Artifact, name: str, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    payload = pickle.dumps(Payload(f"touch {marker}"), protocol=2)
    with pytest.raises(UnsafePickleError, match=f"in {name}, it names"):
        scan_lite(put_together({**members, name: payload}), artifact, "bad.ptl")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nload\n"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"),
        (b"ccollections\nOrderedDict\n", b"ccollections\nUserDict\n"),
        (b"c__torch__.torch.classes.quantized\n", b"c__torch__.torch.classes.dist_c10d\n"),
    ],
)
def test_other_names_than_torch_writes_are_refused(
    members: dict[str, bytes], artifact: Artifact, old: bytes, new: bytes
) -> None:
    pickled = members["bytecode.pkl"]
    assert old in pickled
    bad = {**members, "bytecode.pkl": pickled.replace(old, new)}
    with pytest.raises(UnsafePickleError):
        scan_lite(put_together(bad), artifact, "bad.ptl")


def float_storages(members: dict[str, bytes]) -> list[tuple[str, str]]:
    """Return (member, dtype) of every stored float tensor that is not empty."""
    found = walk(members["bytecode.pkl"], EVERYTHING)
    kinds = {"torch FloatStorage": "<f4", "torch DoubleStorage": "<f8"}
    keys = [p.key for p in found.persistent if p.key[1].text in kinds and p.key[4]]
    return [(f"constants/{key[2]}", kinds[key[1].text]) for key in keys]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_weights_that_are_not_finite_are_refused(
    edges: dict[str, Path], artifact: Artifact, name: str, value: float
) -> None:
    members = taken_apart(edges[name].read_bytes())
    storages = float_storages(members)
    assert storages
    for member, dtype in {storages[0], storages[-1]}:
        array = np.frombuffer(members[member], dtype=dtype).copy()
        array[-1] = value
        bad = {**members, member: array.tobytes()}
        with pytest.raises(NonFiniteWeightsError, match="NaN or infinite"):
            scan_lite(put_together(bad), as_claimed(artifact, name), "bad.ptl")


def test_a_scale_in_the_bytecode_that_is_not_finite_is_refused(
    members: dict[str, bytes], artifact: Artifact
) -> None:
    pickled = members["bytecode.pkl"]
    at = re.search(rb"G[\x3f\x40].{7}", pickled, re.DOTALL)
    assert at is not None
    bad = pickled[: at.start() + 1] + struct.pack(">d", float("nan")) + pickled[at.end() :]
    with pytest.raises(NonFiniteWeightsError, match=r"bytecode\.pkl"):
        scan_lite(put_together({**members, "bytecode.pkl": bad}), artifact, "bad.ptl")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bytecode.pkl": None}, "'bytecode.pkl' is missing"),
        ({"data.pkl": None}, "'data.pkl' is missing"),
        ({"version": None}, "'version' is missing"),
        ({"constants/0.storage": None}, "is missing"),
        ({"constants/0.storage": b""}, "0 bytes, not"),
        ({"constants/0.storage": b"\0" * 400}, "400 bytes, not"),
        ({"byteorder": b"big"}, "little-endian"),
        ({"../../etc/cron.d/job": b"x"}, "none of TorchScript Lite"),
        ({"constants/../x": b"x"}, "none of TorchScript Lite"),
        ({"code/__torch__.py": b"import os"}, "none of TorchScript Lite"),
        ({"code/a.py.debug_pkl": b"x"}, "none of TorchScript Lite"),
        ({"data.pkl": b"\x80\x02K\x01"}, "no pickle"),
        ({"bytecode.pkl": b"\x80\x02K\x08."}, "exactly one method"),
    ],
)
def test_other_members_are_refused(
    members: dict[str, bytes], artifact: Artifact, changes: dict[str, bytes | None], reason: str
) -> None:
    bad = {**members, **{k: v for k, v in changes.items() if v is not None}}
    for name in (k for k, v in changes.items() if v is None):
        del bad[name]
    with pytest.raises(MalformedArtifactError, match=reason):
        scan_lite(put_together(bad), artifact, "bad.ptl")


def test_the_top_folder_must_be_one_plain_name(
    members: dict[str, bytes], artifact: Artifact
) -> None:
    good = put_together(members)
    for name in (b"../chiv", b"/rchive", b"arc/ive", b".......", b"ar\\hive"):
        with pytest.raises(MalformedArtifactError):
            scan_lite(good.replace(b"archive", name), artifact, "bad.ptl")
    with pytest.raises(MalformedArtifactError, match="outside its top folder"):
        scan_lite(good.replace(b"archive/version", b"brchive/version"), artifact, "bad.ptl")


def test_another_bytecode_version_is_refused(members: dict[str, bytes], artifact: Artifact) -> None:
    old = b"\x80\x02K" + bytes([artifact.bytecode_version or 0])
    assert members["bytecode.pkl"].startswith(old)
    bad = members["bytecode.pkl"].replace(old, b"\x80\x02K\x07", 1)
    with pytest.raises(ArtifactMismatchError, match="version 7"):
        scan_lite(put_together({**members, "bytecode.pkl": bad}), artifact, "bad.ptl")


def test_an_operator_that_writes_files_is_refused(
    members: dict[str, bytes], artifact: Artifact
) -> None:
    for name in (b"aten::save", b"aten::from_file", b"prim::Print", b"aten::max"):
        old = b"X\x12\0\0\0aten::dequantize"[:1] + struct.pack("<I", 16) + b"aten::dequantize"
        assert old in members["bytecode.pkl"]
        new = b"X" + struct.pack("<I", len(name)) + name
        bad = {**members, "bytecode.pkl": members["bytecode.pkl"].replace(old, new)}
        with pytest.raises(UnsafeOperatorError, match=name.decode()):
            scan_lite(put_together(bad), artifact, "bad.ptl")


def rebuilt(constants: bytes, old: bytes, new: bytes) -> bytes:
    assert old in constants
    return constants.replace(old, new, 1)


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(
    edges: dict[str, Path], artifact: Artifact
) -> None:
    members = taken_apart(edges["fp32"].read_bytes())
    table = members["bytecode.pkl"]
    # The first weight: shape (8, 3, 3, 3), strides (27, 9, 3, 1), somewhere in the one storage.
    shape, strides = b"(K\x08K\x03K\x03K\x03t", b"(K\x1bK\x09K\x03K\x01t"
    views = [c.arguments for c in walk(table, EVERYTHING).calls if len(c.arguments) == 6]
    (start,) = [v[1] for v in views if v[2] == (8, 3, 3, 3)]
    offset = b"K" + bytes([start]) if start < 256 else b"M" + struct.pack("<H", start)
    for old, new in (
        (shape, b"(M\xff\xffK\x03K\x03K\x03t"),
        (strides, b"(M\xff\xffK\x09K\x03K\x01t"),
        (strides, b"(J\xff\xff\xff\xffK\x09K\x03K\x01t"),
        (strides, b"(K\x09K\x03K\x01t"),
        (offset + shape, b"M\xff\xff" + shape),
    ):
        bad = {**members, "bytecode.pkl": rebuilt(table, old, new)}
        with pytest.raises(MalformedArtifactError, match=r"beyond its storage|no shape"):
            scan_lite(put_together(bad), as_claimed(artifact, "fp32"), "bad.ptl")


@pytest.mark.parametrize(
    "pickled",
    [
        # Another class than the method's: the mobile loader crashes on it.
        b"\x80\x02c__torch__.torch.fx.graph_module\nGraphModulf\n)\x81}(ub.",
        b"\x80\x02c__torch__.torch.fx.graph_module\nGraphModule\n)\x81.",
        b"\x80\x02c__torch__.torch.fx.graph_module\nGraphModule\n)\x81}(X\x01\0\0\0aK\x01ub.",
        b"\x80\x02}(ub.",
    ],
)
def test_the_object_must_be_the_one_frozen_module(
    members: dict[str, bytes], artifact: Artifact, pickled: bytes
) -> None:
    with pytest.raises(MalformedArtifactError):
        scan_lite(put_together({**members, "data.pkl": pickled}), artifact, "bad.ptl")


# What follows changes one entry of a real bytecode table.


def module_of(table: Any) -> str:
    return str(table[1][0].removesuffix(".forward"))


def check(table: Any, artifact: Artifact) -> None:
    check_bytecode(table, artifact.bytecode_version, module_of(table))


def replaced(table: Any, part: str, edit: Callable[[Any], Any]) -> Any:
    version, (name, body, schema) = table
    body = tuple((key, edit(value) if key == part else value) for key, value in body)
    return version, (name, body, schema)


def instruction(table: Any, wanted: str, new: tuple[str, int, int]) -> Any:
    def edit(instructions: Any) -> Any:
        at = [i[0] for i in instructions].index(wanted)
        return (*instructions[:at], new, *instructions[at + 1 :])

    return replaced(table, "instructions", edit)


def test_the_real_table_passes_and_all_its_operators_are_on_the_list(
    table: Any, artifact: Artifact
) -> None:
    check(table, artifact)
    body = dict(table[1][1])
    assert {operator[0] for operator in body["operators"]} <= OPERATORS


BAD_INSTRUCTIONS: list[tuple[str, tuple[str, int, int], str]] = [
    ("LOADC", ("LOADC", 10_000, 0), "constant 10000"),
    ("LOADC", ("LOADC", -1, 0), "constant -1"),
    ("OP", ("OP", 99, 0), "operator 99"),
    ("OP", ("OP", -1, 0), "operator -1"),
    ("OP", ("OPN", 0, -5), "argument count"),
    ("LOAD", ("LOAD", 0, 0), "register 0"),
    ("LOAD", ("LOAD", 100_000, 0), "register 100000"),
    ("STORE", ("STORE", -7, 0), "register -7"),
    ("STOREN", ("STOREN", 1, 50_000), "register 50000"),
    ("STOREN", ("STOREN", 1, -1), "register -1"),
    ("STOREN", ("STOREN", 1, 3), "runs empty"),
    ("JF", ("JF", 100_000, 0), "jumps"),
    ("JF", ("JF", -1, 0), "jumps"),
    ("JMP", ("JMP", -100_000, 0), "jumps"),
    ("JMP", ("JMP", 0, 0), "jumps"),
    ("LOADC", ("LIST_CONSTRUCT", 99, 1), "type 99"),
    ("LOADC", ("DROP", 0, 0), "runs empty"),
    ("RET", ("JMP", 1, 0), "jumps"),
]


@pytest.mark.parametrize(("wanted", "new", "reason"), BAD_INSTRUCTIONS)
def test_instructions_out_of_bounds_are_refused(
    table: Any, artifact: Artifact, wanted: str, new: tuple[str, int, int], reason: str
) -> None:
    with pytest.raises(BytecodeError, match=reason):
        check(instruction(table, wanted, new), artifact)


@pytest.mark.parametrize(
    "name", ["LOOP", "CALL", "INTERFACE_CALL", "FORK", "CREATE_OBJECT", "os.system"]
)
def test_instructions_that_no_edge_needs_are_refused(
    table: Any, artifact: Artifact, name: str
) -> None:
    with pytest.raises(ForbiddenOperatorError, match=name):
        check(instruction(table, "LOADC", (name, 0, 0)), artifact)


def test_a_stack_that_depends_on_the_path_is_refused(table: Any, artifact: Artifact) -> None:
    # Jump to the next instruction either way, but with one value more on one of the ways.
    code = (("LOAD", 1, 0), ("LOAD", 1, 0), ("JF", 2, 0), ("LOAD", 1, 0), ("RET", 0, 0))
    start = (("STOREN", 1, 2),)
    bad = replaced(table, "instructions", lambda _: start + code)
    with pytest.raises(BytecodeError, match="depends on the path"):
        check(bad, artifact)
    straight = (("LOAD", 1, 0), ("LOAD", 1, 0), ("JF", 1, 0), ("RET", 0, 0))
    check(replaced(table, "instructions", lambda _: start + straight), artifact)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: (t[0], t[1], t[1]), "exactly one method"),
        (lambda t: [*t], "exactly one method"),
        (lambda t: (True, t[1]), "exactly one method"),
        (lambda t: (t[0], t[1][:2]), "no .name, body, schema"),
        (lambda t: (t[0], ("os.system", *t[1][1:])), "not __torch__"),
        (lambda t: (t[0], ("__torch__.Edge.forward", *t[1][1:])), "not __torch__"),
        (lambda t: (t[0], (t[1][0], t[1][1][:4], t[1][2])), "exactly instructions"),
        (lambda t: (t[0], (t[1][0], t[1][1], ())), "exactly arguments"),
        (lambda t: replaced(t, "register_size", lambda _: -1), "registers"),
        (lambda t: replaced(t, "register_size", lambda _: 1 << 40), "registers"),
        (lambda t: replaced(t, "register_size", lambda _: True), "registers"),
        (lambda t: replaced(t, "instructions", lambda _: ()), "0 instructions"),
        (lambda t: replaced(t, "instructions", lambda _: (("RET", 0),)), "malformed"),
        (lambda t: replaced(t, "instructions", lambda _: (("RET", 0, 0.5),)), "malformed"),
        (lambda t: replaced(t, "operators", lambda _: (("aten::relu", ""),)), "malformed"),
        (lambda t: replaced(t, "operators", lambda _: (("aten::relu", "", -1),)), "-1 arguments"),
        (lambda t: replaced(t, "types", lambda _: ("__torch__.os",)), "plain"),
        (lambda t: replaced(t, "types", lambda _: (7,)), "plain"),
        (lambda t: replaced(t, "constants", lambda _: None), "tables"),
    ],
)
def test_malformed_tables_are_refused(
    table: Any, artifact: Artifact, change: Callable[[Any], Any], reason: str
) -> None:
    with pytest.raises(BytecodeError, match=reason):
        check_bytecode(change(table), artifact.bytecode_version, module_of(table))


def test_random_damage_to_pickles_is_refused_or_leaves_a_valid_file(
    members: dict[str, bytes], artifact: Artifact
) -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        name = str(rng.choice(["bytecode.pkl", "bytecode.pkl", "data.pkl"]))
        bad = bytearray(members[name])
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        try:
            scan_lite(put_together({**members, name: bytes(bad)}), artifact, "bad.ptl")
        except BundleError:
            refused += 1
    assert refused > 75
