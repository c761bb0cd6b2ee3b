"""Every command of the README runs, verbatim, in a copy of the checkout with short recipes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from records.grid import read_grid
from records.recipe import read_recipe
from report.place_results import CALIBRATED_SUFFIX, source_mark, table_of

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
#: Pages with commands; the later ones use what the commands of the first one made.
PAGES = (README, ROOT / "docs" / "phones.md", ROOT / "docs" / "arm_cost.md")
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]
#: What a test shortens: never what a command does, only how much of it.
SHORT = """
[check]
top1_agreement = 0.0
accuracy_drop_points = 100.0

[bench]
threads = [1]

[attack]
max_epochs = 2
patience = 1
ceiling_db = 10.0
controls = []
artifacts = ["edge_int8_wire_lite", "edge_int8_wire_onnx"]
bootstrap_resamples = 200
"""


def _tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def _cifar_like(path: Path) -> None:
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (640, 4, 4, 3), dtype=np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    labels = np.arange(640) % 10
    np.savez(
        path,
        train_x=images[:512],
        train_y=labels[:512],
        test_x=images[512:],
        test_y=labels[512:],
        classes=np.array([f"class{i}" for i in range(10)]),
    )


def _section(text: str, name: str) -> str:
    """One section of a recipe as the repository has it, up to the next section."""
    found = re.search(rf"\[{name}\].*?(?=\n\[|\Z)", text, re.DOTALL)
    assert found is not None
    return found[0]


def _fewer_refined(export: str) -> str:
    return re.sub(r"refined_tensors = \d+", "refined_tensors = 1", export)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme") / "edgeveil"
    for path in _tracked_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    venv = folder / ".venv"
    venv.mkdir()
    # Each entry apart: Python looks for pyvenv.cfg beside the path by which it was called.
    for entry in ("bin", "lib", "pyvenv.cfg"):
        (venv / entry).symlink_to(Path(sys.prefix) / entry)
    (venv / ".installed").touch()
    _cifar_like(folder / "cifar.npz")
    for name, data in (
        (
            "demo",
            '[data]\nsource = "photos"\n'
            "train = 256\ncalibration = 64\nattacker = 256\nvictims = 128\n",
        ),
        (
            "cifar100",
            '[data]\nsource = "npz:cifar.npz"\n'
            'calibration = 64\nattacker = 256\nattacker_pool = "train"\n',
        ),
    ):
        text = (ROOT / "recipes" / f"{name}.toml").read_text()
        (folder / "recipes" / f"{name}.toml").write_text(
            f'schema = 1\nname = "{name}"\n{data}\n{_section(text, "model")}\n'
            f"[train]\nepochs = 1\n\n{_fewer_refined(_section(text, 'export'))}\n{SHORT}"
        )
    return folder


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) >= 6
    assert "make demo" in BLOCKS[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_runs(scratch: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{scratch / '.venv' / 'bin'}:{os.environ['PATH']}",
        # `make test` inside the tests: everything of it but the tests themselves.
        "PYTEST_ARGS": "--version",
    }
    environment.pop("PYTHONPATH", None)
    for block in BLOCKS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (scratch / "demo" / "report" / "report.html").stat().st_size > 10_000
    assert (scratch / "runs" / "cifar100" / "avgpool" / "attack" / "attack.json").exists()
    assert (scratch / "pi.json").exists()


def test_the_recipes_that_the_readme_names_are_valid() -> None:
    for name in re.findall(r"recipes/\w+\.toml", README.read_text(encoding="utf-8")):
        assert read_grid(ROOT / name) if "sweep" in name else read_recipe(ROOT / name)


def test_every_linked_file_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)


TABLES = [
    (page, kind, name)
    for page in PAGES
    for kind, name in re.findall(r"<!-- (\w+):(\w+) -->", page.read_text(encoding="utf-8"))
]


def test_the_page_holds_the_tables_of_every_results_file() -> None:
    files = {path.stem for path in (ROOT / "docs" / "results").glob("*.json")}
    beside = {name for name in files if name.endswith(CALIBRATED_SUFFIX)}
    assert {name for _, _, name in TABLES} == files - beside


@pytest.mark.parametrize(("page", "kind", "name"), TABLES, ids=lambda value: str(value)[-20:])
def test_the_figures_are_those_of_the_results_file(page: Path, kind: str, name: str) -> None:
    placed = re.search(
        rf"<!-- {kind}:{name} -->\n(.*?)<!-- /{kind}:{name} -->",
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert placed is not None
    assert placed[1] == table_of(kind, ROOT / "docs" / "results" / f"{name}.json")


@pytest.mark.parametrize("name", [name for _, kind, name in TABLES if kind == "curve"])
def test_the_curve_is_drawn_from_its_record(name: str) -> None:
    path = ROOT / "docs" / "results" / f"{name}.json"
    assert path.with_suffix(".svg").read_bytes().endswith(source_mark(path))
