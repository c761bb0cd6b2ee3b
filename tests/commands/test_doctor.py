from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import export_extra
from records import codec
from records.doctor import DoctorRecord
from runtime_check.doctor import _SOURCES, VERBS, _source

#: What a core install does not have. An entry of None makes an import fail as if it were absent.
EXTRA = (
    *("torch", "torchvision", "onnx", "onnxscript", "skimage", "scipy"),
    *("safetensors", "matplotlib", "jinja2", "PIL", "executorch", "ai_edge_litert"),
)


def _run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    return subprocess.run(
        [sys.executable, "-m", "edgeveil", "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_here_everything_works() -> None:
    done = _run("--json")
    assert done.returncode == 0, done.stderr
    record = codec.decode(done.stdout.encode(), DoctorRecord, "stdout")
    assert record.usable
    optional = {"executorch", "litert"}
    for runtime in record.runtimes:
        missing = runtime.runtime in optional and runtime.version is None
        assert runtime.works or missing, runtime
    assert all(verb.missing == () for verb in record.verbs)
    assert record.install is None


def test_a_core_install_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    hide = f"import sys\nsys.modules.update(dict.fromkeys({EXTRA!r}))\n"
    (tmp_path / "sitecustomize.py").write_text(hide, encoding="utf-8")
    done = _run(path=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "torch is not installed" in text
    for suffix, extra in ((".ptl", "export"), (".pte", "executorch"), (".tflite", "litert")):
        assert f"every {suffix} artifact: " in text
        assert f"pip install '.[{extra}]'" in text


def test_a_source_is_ready_only_where_its_images_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def states() -> dict[str, str]:
        return {name: _source(name).state for name in _SOURCES}

    empty = states()
    assert empty == {
        "photos": "ready",
        "cifar100[:ROOT]": "with --download",
        "npz:FILE": "with data",
        "folder:DIR": "with data",
    }
    (tmp_path / "edgeveil" / "cifar100" / "cifar-100-python").mkdir(parents=True)
    assert states() == empty | {"cifar100[:ROOT]": "ready"}


def test_without_a_working_onnx_runtime_it_exits_3(tmp_path: Path) -> None:
    broken = tmp_path / "onnxruntime"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no such instruction')\n", "utf-8")
    done = _run("--json", path=tmp_path)
    assert done.returncode == 3
    assert "no such instruction" in done.stderr
    record = codec.decode(done.stdout.encode(), DoctorRecord, "stdout")
    assert not record.usable


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_the_doctor_names_what_the_verb_itself_asks_for(verb: str) -> None:
    source = Path(export_extra.__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")
    asked: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require_export_extra":
            packages = node.args[1:]
            asked |= set(ast.literal_eval(packages[0]) if packages else export_extra._NEEDED)
    assert set(VERBS[verb]) == asked
