"""The rules of the house that a tool can hold: lint, types, layers, names, docstrings."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "attack",
    "baseline",
    "benchmarks",
    "commands",
    "export",
    "pipeline",
    "records",
    "report",
    "runtime_check",
)
FORBIDDEN_NAMES = ("utils", "helpers", "manager", "common")


def _tool(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_ruff_finds_nothing() -> None:
    _tool("ruff", "check", ".")


def test_every_file_is_formatted() -> None:
    _tool("ruff", "format", "--check", ".")


@pytest.mark.slow
def test_mypy_strict_finds_nothing() -> None:
    _tool("mypy")


def test_data_flows_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_owned_by_this_distribution_only(package: str) -> None:
    # The top-level names are generic: another distribution with one of them would be shadowed.
    assert set(packages_distributions().get(package, [])) == {"edgeveil"}


def test_the_distribution_cannot_be_uploaded() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert "Private :: Do Not Upload" in setup["metadata"]["classifiers"]


def test_no_name_that_says_nothing() -> None:
    assert [p for p in _sources() if any(word in p.stem for word in FORBIDDEN_NAMES)] == []


def test_nothing_unpickles() -> None:
    for path in _sources():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert "pickle" not in [*names, module], path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True", path


def _public_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions of a module, and methods of its public classes, whose names are public."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found.append(node)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [
                item
                for item in node.body
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
            ]
    return found


def _raises_named_error(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func).endswith("Error")
        for node in ast.walk(function)
    )


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_public_docstrings_say_what_is_raised(path: Path) -> None:
    for function in _public_functions(ast.parse(path.read_text())):
        text = ast.get_docstring(function)
        assert text, f"{path}: {function.name} has no docstring"
        if _raises_named_error(function) and function.name != "command":
            assert "Raises:" in text or "raise" in text.lower(), f"{path}: {function.name}"


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_array_functions_say_shapes_and_dtypes(path: Path) -> None:
    for function in _public_functions(ast.parse(path.read_text())):
        annotations = [ast.unparse(a.annotation) for a in function.args.args if a.annotation]
        annotations.append(ast.unparse(function.returns) if function.returns else "")
        if any(re.search(r"\b(NDArray|Tensor)\b", a) for a in annotations):
            text = (ast.get_docstring(function) or "") + (
                ast.get_docstring(ast.parse(path.read_text())) or ""
            )
            assert any(
                mark in text for mark in ("(N", "(M", "shape", "(C", "any shape", "1-D", "scalar")
            ), f"{path}: {function.name} takes or gives arrays but names no shape"
