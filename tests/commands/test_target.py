"""``edgeveil target`` and ``--target``: what they print, exit codes, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from commands import target
from records.doctor import DoctorRecord
from records.target import TargetState
from runtime_check.targets import prepare
from tests.benchmarks.toy_bundle import toy_bundle
from tests.commands.exit_codes import exit_code_of as exit_code


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGEVEIL_TARGETS", str(tmp_path / "targets"))
    return tmp_path / "targets"


def test_the_list_says_what_each_target_needs(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "target", "list", "--json") == 0
    states = msgspec.json.decode(capsys.readouterr().out, type=tuple[TargetState, ...])
    assert [state.target for state in states] == ["cortex-a72", "cortex-a76"]
    assert not any(state.ready for state in states)
    lite = next(part for part in states[0].parts if part.part == "lite")
    assert lite.optional
    assert lite.detail == "missing; run: edgeveil target prepare cortex-a72 --with lite"
    assert exit_code(monkeypatch, "target", "list") == 0
    shown = capsys.readouterr().out
    assert "cortex-a76: not prepared" in shown
    assert str(cache) in shown.replace("\n", "")
    assert not cache.exists()


def test_preparing_without_qemu_exits_3_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "missing_programs", lambda programs: ("qemu-aarch64",))
    assert exit_code(monkeypatch, "target", "prepare", "cortex-a72") == 3
    assert "apt-get install --yes --no-install-recommends qemu-user" in capsys.readouterr().err


def test_preparing_without_a_cross_compiler_exits_3_with_the_command(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = "aarch64-linux-gnu-g++"
    monkeypatch.setattr(
        prepare, "missing_programs", lambda programs: tuple(p for p in programs if p == compiler)
    )
    assert exit_code(monkeypatch, "target", "prepare", "cortex-a72", "--with", "executorch") == 3
    said = capsys.readouterr().err
    assert "aarch64-linux-gnu-g++ missing; as root: apt-get install" in said
    assert "--install-system-packages" in said
    assert not cache.exists()


def test_an_unknown_target_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("prepare", "remove"):
        assert exit_code(monkeypatch, "target", verb, "cortex-m0") == 1
        assert "cortex-a72 or cortex-a76" in capsys.readouterr().err


def test_removing_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "target", "remove", "cortex-a72") == 0
    assert capsys.readouterr().out == "cortex-a72: removed nothing\n"


@pytest.mark.parametrize("verb", ["check", "bench", "attack"])
def test_a_target_that_is_not_prepared_exits_3(
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = toy_bundle(tmp_path / "run" / "bundle")
    monkeypatch.setattr("export.bundle.load_bundle", lambda path: bundle)
    assert exit_code(monkeypatch, verb, bundle.folder, "--target", "cortex-a76") == 3
    said = capsys.readouterr().err
    # Which of the two depends on whether qemu is here; both say how to get what is missing.
    assert "edgeveil target prepare cortex-a76" in said or "apt-get install" in said
    assert exit_code(monkeypatch, verb, bundle.folder, "--target", "cortex-m0") == 1
    assert "host, cortex-a72, cortex-a76" in capsys.readouterr().err
    assert sorted(p.name for p in bundle.folder.parent.iterdir()) == ["bundle"]


def test_the_doctor_says_what_each_target_lacks_and_how_to_get_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    # What this installation's own runtimes answer is tested elsewhere.
    monkeypatch.setattr("runtime_check.doctor._ask", lambda command: (True, "works"))
    assert exit_code(monkeypatch, "doctor", "--json") == 0
    record = msgspec.json.decode(capsys.readouterr().out, type=DoctorRecord)
    for state in record.targets:
        assert not state.ready
        lacking = {part.part: part.detail for part in state.parts if not part.ready}
        for program, package in (
            ("qemu-aarch64", "qemu-user"),
            ("cc", "gcc"),
            ("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
        ):
            assert lacking[program].startswith("missing; as root: apt-get install")
            assert package in lacking[program]
        for part in ("lite", "executorch", "litert"):
            way = f"edgeveil target prepare {state.target} --with {part}"
            assert lacking[part] == f"missing; run: {way}"


@pytest.mark.parametrize("verb", ["check", "bench", "attack"])
def test_without_qemu_a_target_exits_3(
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = toy_bundle(tmp_path / "run" / "bundle")
    monkeypatch.setattr("export.bundle.load_bundle", lambda path: bundle)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert exit_code(monkeypatch, verb, bundle.folder, "--target", "cortex-a76") == 3
    assert "qemu-aarch64 is not here; as root: apt-get install" in capsys.readouterr().err


def test_every_subcommand_and_option_is_documented() -> None:
    for name, subcommand in target.command.commands.items():
        assert subcommand.help, name
        options = [p for p in subcommand.params if p.param_type_name == "option"]
        assert [p.name for p in options if not getattr(p, "help", None)] == []
