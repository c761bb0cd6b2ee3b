from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgeveil
from records.recipe import Recipe
from tests.report.sample_run import write_sample_run

ROOT = Path(edgeveil.__file__).parent
HEAVY = ("torch", "onnxruntime", "onnx", "numpy", "matplotlib", "skimage")
LATE = ("torchvision", "torch._dynamo", "scipy.stats", "matplotlib", "skimage")


def _run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeveil", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_help_lists_every_verb_with_one_line() -> None:
    shown = CliRunner().invoke(edgeveil.group, ["--help"]).output
    for verb in edgeveil.COMMANDS:
        assert f"\n  {verb}" in shown


def test_every_verb_is_a_file_and_every_file_that_has_a_command_a_verb() -> None:
    with_command = {
        path.stem
        for path in (ROOT / "commands").glob("*.py")
        if "\ndef command(" in path.read_text()
    }
    assert with_command == set(edgeveil.COMMANDS)


@pytest.mark.parametrize("verb", sorted(edgeveil.COMMANDS))
def test_every_verb_and_option_is_documented(verb: str) -> None:
    command = edgeveil.group.get_command(None, verb)  # type: ignore[arg-type]
    assert command is not None
    assert command.help
    undocumented = [
        parameter.name
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "help", None)
    ]
    assert undocumented == []


#: Option → section and key of the recipe, where its name is not the key's.
KEYS = {"data": "data.source", "model": "model.name", "split": "export.splits"}
#: Without a default to show: a path that must be given, a flag, a list that begins empty.
WITHOUT = {"export": {"weights"}, "sensitivity": {"weights"}, "train": {"download"}}


def _recipes_default(option: str) -> str | None:
    recipe = Recipe()
    section, _, key = KEYS.get(option, "").partition(".")
    for name in (section,) if section else ("train", "export", "model", "data"):
        value = getattr(getattr(recipe, name), key or option, KEYS)
        if value is not KEYS and value != ():
            words = {False: "no", None: "all"}
            plain = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            return words[value] if value is False or value is None else plain
    return None


@pytest.mark.parametrize("verb", sorted(WITHOUT))
def test_the_help_shows_the_defaults_that_a_recipe_has(verb: str) -> None:
    command = edgeveil.group.get_command(None, verb)  # type: ignore[arg-type]
    assert command is not None
    checked = 0
    for option in command.params:
        default = _recipes_default(str(option.name))
        if default is None or option.name in WITHOUT[verb]:
            continue
        shown = re.search(r"\[default: (.*)\]$", getattr(option, "help", None) or "")
        assert shown is not None, option.name
        assert shown[1] == default, option.name
        checked += 1
    assert checked >= 7


@pytest.mark.parametrize("verb", ["", *sorted(edgeveil.COMMANDS)])
def test_help_imports_nothing_heavy(verb: str) -> None:
    arguments = [verb, "--help"] if verb else ["--help"]
    program = (
        "import sys; from click.testing import CliRunner; import edgeveil\n"
        f"result = CliRunner().invoke(edgeveil.group, {arguments!r})\n"
        "assert result.exit_code == 0, result.output\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_nothing_is_imported_for_seconds_that_is_not_needed() -> None:
    # torchvision is for its own networks, scipy.stats for nothing that scipy.special does not do.
    work = "attack.evaluate, benchmarks.latency, export.build, pipeline.sweep, runtime_check.check"
    program = f"import sys, {work}; print([m for m in {LATE!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_within_three_tenths_of_a_second() -> None:
    def seconds() -> float:
        start = _children_seconds()
        assert _run("--help").returncode == 0
        return _children_seconds() - start

    # CPU seconds, the best of several: what a shared machine's other work takes is not ours.
    assert min(seconds() for _ in range(7)) <= 0.3


def test_a_file_where_a_folder_should_be_is_said_in_a_line(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run")
    (tmp_path / "afile").write_text("x")
    done = _run("report", str(run), "--out", str(tmp_path / "afile" / "report"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"edgeveil: {tmp_path / 'afile'}")
    assert "choose another place" in line
    assert (tmp_path / "afile").read_text() == "x"


def test_a_usage_error_exits_one_not_two() -> None:
    done = _run("run", "--no-such-option")
    assert done.returncode == 1
    assert "No such option" in done.stderr


def test_a_named_error_is_one_sentence_without_a_traceback(tmp_path: Path) -> None:
    done = _run("run", "nowhere.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("edgeveil: RecipeError: recipe nowhere.toml cannot be read")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
