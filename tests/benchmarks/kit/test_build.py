"""Kits: reproducible, self-contained, verified where they run, and able to fail."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy.typing as npt
import pytest

from benchmarks.kit.build import SHIPPED, BuiltKit
from benchmarks.kit.readme import readme
from records.errors import BundleError, OverwriteError
from records.hashing import sha256_bytes, sha256_file
from tests.benchmarks.kit.kits import quick_kit
from tests.runtime_check.tiny_bundle import replaced, tiny_bundle, wrong_weights

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from baseline.datasets import ImageSplits
    from benchmarks.kit.readme import readme
from export.bundle import Bundle

ROOT = Path(__file__).resolve().parents[3]
Made = tuple["Bundle", "ImageSplits", BuiltKit, Path]
_LATE = {"onnxruntime", "torch", "ai_edge_litert"}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Made:
    folder = tmp_path_factory.mktemp("kit")
    bundle, splits = tiny_bundle(folder, tiny_model, tiny_images)
    return bundle, splits, quick_kit(bundle, splits, folder / "kit.tar.gz"), folder / "kit.tar.gz"


def unpacked(path: Path, folder: Path) -> Path:
    # By hand: Python 3.11.2, which Debian 12 has, knows no filter for extractall.
    with tarfile.open(path) as archive:
        for member in archive:
            packed = archive.extractfile(member)
            assert packed is not None, f"{member.name} is no plain file"
            target = folder / member.name
            assert folder in target.resolve().parents
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(packed.read())
            target.chmod(member.mode)
    (root,) = folder.iterdir()
    return root


def run(kit: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(kit / "run.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_same_bundle_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    bundle, splits, kit, path = made
    again = quick_kit(bundle, splits, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == path.read_bytes() == kit.data
    assert again.file.sha256 == kit.file.sha256 == sha256_file(path)
    other = quick_kit(bundle, splits, tmp_path / "other.tar.gz", images=10)
    assert other.file.sha256 != kit.file.sha256


def test_members_are_sorted_and_have_no_time_and_no_owner(made: Made) -> None:
    with tarfile.open(made[3]) as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert len({name.partition("/")[0] for name in names}) == 1
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert [m.name for m in members if m.mode & 0o111] == [f"{made[2].folder}/run.py"]


def test_every_file_is_named_with_its_hash(made: Made, tmp_path: Path) -> None:
    root = unpacked(made[3], tmp_path)
    kit = json.loads((root / "kit.json").read_bytes())
    found = {str(p.relative_to(root)): sha256_file(p) for p in root.rglob("*") if p.is_file()}
    for alone in ("kit.json", "README.md"):
        del found[alone]
    assert found == kit["files"]
    for artifact in made[0].manifest.artifacts:
        assert kit["files"][f"bundle/{artifact.file}"] == artifact.sha256
    text = (root / "README.md").read_text(encoding="utf-8")
    assert all(f"\n    {line}\n" in text for line in made[2].commands)
    assert len(made[2].commands) == 3


def test_the_readme_names_what_no_runner_opens(made: Made) -> None:
    kit = made[2].file.kit
    with_pte = kit.files | {"bundle/edge_int8.pte": "0" * 64}
    text = readme(msgspec.structs.replace(kit, files=with_pte), "folder").decode()
    assert "no runner for .pte" in text
    assert "edge_int8.pte" in text
    assert "edge_int8.ptl" in text
    only_onnx = {name: sha for name, sha in kit.files.items() if not name.endswith(".ptl")}
    plain = readme(msgspec.structs.replace(kit, files=only_onnx), "folder").decode()
    assert "Skipped" not in plain


def test_an_existing_archive_stays(made: Made, tmp_path: Path) -> None:
    bundle, splits, _, _ = made
    path = tmp_path / "kit.tar.gz"
    path.write_bytes(b"mine")
    with pytest.raises(OverwriteError):
        quick_kit(bundle, splits, path)
    assert path.read_bytes() == b"mine"
    quick_kit(bundle, splits, path, replace=True)
    assert path.read_bytes() == made[2].data


def test_a_bundle_that_changed_after_it_was_verified(
    tmp_path: Path, tiny_model: nn.Module, tiny_images: npt.NDArray[np.uint8]
) -> None:
    bundle, splits = tiny_bundle(tmp_path, tiny_model, tiny_images)
    edge = bundle.path(bundle.artifact("server_fp32_onnx"))
    edge.write_bytes(edge.read_bytes() + b" ")
    with pytest.raises(BundleError):
        quick_kit(bundle, splits, tmp_path / "kit.tar.gz")
    assert not (tmp_path / "kit.tar.gz").exists()


class _WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found.add(node.module)
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_module_needs_nothing_that_is_not_shipped(name: str) -> None:
    modules = [one.removesuffix(".py").removesuffix("/__init__") for one in SHIPPED]
    shipped = {one.replace("/", ".") for one in modules}
    tree = _WithoutTypes().visit(ast.parse((ROOT / name).read_text(encoding="utf-8")))
    late = {
        one
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and function.name in ("machine_record", "machine_state", "criteria")
        for one in _imports(function)
    }
    assert late <= {"records.machine", "records.bench"}
    for one in _imports(tree) - late:
        top = one.partition(".")[0]
        known = one in shipped or top in sys.stdlib_module_names or top == "numpy"
        assert known or top in _LATE, f"{name} imports {one}"


def test_the_kit_passes_here(made: Made, tmp_path: Path) -> None:
    root = unpacked(made[3], tmp_path)
    before = {p for p in root.rglob("*") if p.is_file()}
    done = run(root, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    record = json.loads((root / "records/check.json").read_bytes())
    assert {row["artifact"] for row in record["rows"]} == {e.name for e in made[0].edges()}
    assert all(row["from_host"] == [20 * 16 * 8 * 8] for row in record["rows"] if "worst" in row)
    after = {p for p in root.rglob("*") if p.is_file()}
    assert after - before == {root / "records/check.json", root / "records/.lock"}


def test_old_records_are_kept_or_refused(made: Made, tmp_path: Path) -> None:
    root = unpacked(made[3], tmp_path)
    (root / "records").mkdir()
    record = {"kit": sha256_bytes((root / "kit.json").read_bytes()), "rows": [], "skipped": []}
    old = json.dumps(record | {"preprocessing_identical": False})
    (root / "records/check.json").write_text(old, encoding="utf-8")
    done = run(root, "check")
    assert done.returncode == 1
    assert "OverwriteError" in done.stdout
    done = run(root, "check", "--resume")
    # No row ran, and the input differs: what stands there is believed, and it is bad.
    assert done.returncode == 2
    assert "FAIL input preprocessing_differs" in done.stdout
    assert (root / "records/check.json").read_text(encoding="utf-8") == old


@pytest.mark.parametrize("name", ["bundle/edge_int8.onnx", "code/runtime_check/wire.py"])
def test_a_changed_file_is_found_before_anything_runs(
    made: Made, tmp_path: Path, name: str
) -> None:
    root = unpacked(made[3], tmp_path)
    (root / name).write_bytes((root / name).read_bytes() + b"\n")
    done = run(root, "check")
    assert done.returncode == 1
    assert f"{name} is not the file of this kit" in done.stdout
    assert not (root / "records").exists()


def test_a_wrong_artifact_fails(
    made: Made, tmp_path: Path, tiny_model: nn.Module, tiny_images: npt.NDArray[np.uint8]
) -> None:
    bundle, splits, _, _ = made
    wrong, _ = tiny_bundle(tmp_path / "wrong", wrong_weights(tiny_model), tiny_images)
    bad = bundle
    for number, name in enumerate(("edge_int8_wire_onnx", "edge_int8_lite", "edge_fp32_lite")):
        source = wrong.path(wrong.artifact(name))
        bad = replaced(bad, tmp_path / f"bad{number}", name, source)
    quick_kit(bad, splits, tmp_path / "kit.tar.gz")
    done = run(unpacked(tmp_path / "kit.tar.gz", tmp_path / "unpacked"), "check")
    assert done.returncode == 2
    failed = {tuple(line.split()[2:4]) for line in done.stdout.splitlines() if " FAIL " in line}
    # Against the host an FP32 edge agrees with itself: the host runs the same wrong file.
    assert failed == {
        ("edge_int8_wire_onnx", "share_within_1_lsb"),
        ("edge_int8_lite", "off_grid"),
        ("edge_int8_lite", "max_lsb"),
    }


def test_bench_says_what_it_measured(made: Made, tmp_path: Path) -> None:
    root = unpacked(made[3], tmp_path)
    done = run(root, "bench")
    assert done.returncode in (0, 2), done.stdout + done.stderr
    record = json.loads((root / "records/bench-1.json").read_bytes())
    for one in record["artifacts"]:
        assert f"{one['artifact']} p50 " in done.stdout
        assert sum(map(len, one["blocks_ns"])) >= 30
    # A busy machine makes it INVALID, and then no ratio is said.
    assert ("INVALID" in done.stdout) == (done.returncode == 2)
    assert ("against edge_fp32_onnx" in done.stdout) == (done.returncode == 0)
