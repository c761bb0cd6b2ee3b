"""Parts of a target: built once, atomically, and what is said where something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from records.errors import InputError, UnsupportedHereError
from records.files import PARTIAL_SUFFIX
from runtime_check.targets import emulated, emulator, parts, prepare, sysroot, wheels
from runtime_check.targets.cache import build_part, cache_root, locked, part_facts, part_folder
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import EmulatedTarget
from runtime_check.targets.emulator import Emulator

KEY = "ab" * 32


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace what needs the network, qemu or a compiler; list what was built, in order."""
    done: list[str] = []

    def fill(folder: Path, *_: object) -> None:
        (folder / "usr").mkdir()
        done.append("sysroot")

    def unpack(wanted: object, source: Path, site: Path) -> None:
        (site / "executorch" / "lib").mkdir(parents=True)
        for name in emulator.RUNNER_LIBRARIES:
            (site / "executorch" / "lib" / f"lib{name}.so").touch()

    def compile_runner(package: Path, version: str, target: Path) -> None:
        assert (package / "lib").is_dir()
        done.append(f"runner {version}")
        target.touch()

    def start(guest: emulated.Guest) -> dict[str, str]:
        done.append(f"start {guest.cpu.name}")
        return {}

    monkeypatch.setattr(prepare, "missing_programs", lambda programs: ())
    monkeypatch.setattr(prepare, "find_emulator", lambda: Emulator("/bin/qemu", "qemu 1"))
    monkeypatch.setattr(emulated, "find_emulator", lambda: Emulator("/bin/qemu", "qemu 1"))
    monkeypatch.setattr(sysroot, "build_sysroot", fill)
    monkeypatch.setattr(wheels, "fetch", lambda wanted, folder: done.append(wanted[0].distribution))
    monkeypatch.setattr(wheels, "unpack", unpack)
    monkeypatch.setattr(parts, "build_counter", lambda target: done.append("counter"))
    monkeypatch.setattr(parts, "build_executorch_runner", compile_runner)
    monkeypatch.setattr(prepare, "_hello", start)
    return done


def test_each_part_is_built_once_and_shared(built: list[str], tmp_path: Path) -> None:
    assert prepare.prepare("cortex-a72", tmp_path).ready
    assert built == ["sysroot", "numpy", "counter", "start cortex-a72"]
    built.clear()
    prepare.prepare("cortex-a72", tmp_path)
    assert built == []
    prepare.prepare("cortex-a76", tmp_path, extra=("lite",))
    assert built == ["torch", "start cortex-a76"]
    cpuinfo = next(tmp_path.glob("cortex-a76-????????????/proc/cpuinfo"))
    assert cpuinfo.read_text() == CPUS["cortex-a76"].cpuinfo()
    assert (cpuinfo.parents[1] / "usr").resolve().is_dir()


def test_the_runner_of_executorch_lies_beside_its_libraries(
    built: list[str], tmp_path: Path
) -> None:
    state = prepare.prepare("cortex-a76", tmp_path, extra=("executorch", "litert"))
    version = wheels.EXECUTORCH_WHEELS[0].version
    assert built[3:-1] == ["executorch", f"runner {version}", "ai-edge-litert"]
    folder = parts.executorch_part().folder(tmp_path)
    assert (folder / parts.RUNNER).is_file()
    assert len(list((folder / "lib").iterdir())) == len(emulator.RUNNER_LIBRARIES)
    details = {part.part: part.detail for part in state.parts}
    assert details["executorch"] == wheels.EXECUTORCH_WHEELS[0].file
    guest = emulated.Guest(CPUS["cortex-a76"], tmp_path, Emulator("/bin/qemu", "qemu 1"))
    assert guest.runners() == ("python", "executorch")
    assert guest.command("executorch")[-1] == str(folder / parts.RUNNER)
    assert str(parts.litert_part().folder(tmp_path)) in guest.environment()["PYTHONPATH"]


def test_a_killed_preparation_goes_on_where_it_was(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parts, "build_counter", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare("cortex-a72", tmp_path)
    assert not prepare.state("cortex-a72", tmp_path).ready
    built.clear()
    # What a power cut leaves has no one to remove it.
    (tmp_path / ".counter.x.partial").mkdir()
    assert prepare.prepare("cortex-a72", tmp_path).ready
    assert built == ["counter", "start cortex-a72"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_damaged_part_is_built_again(built: list[str], tmp_path: Path) -> None:
    prepare.prepare("cortex-a72", tmp_path)
    built.clear()
    facts = next(tmp_path.glob("sysroot-*")) / "part.json"
    facts.write_text(facts.read_text().replace('"sysroot"', '"other"'))
    prepare.prepare("cortex-a72", tmp_path)
    assert built == ["sysroot"]


def test_removing_keeps_what_another_target_shares(built: list[str], tmp_path: Path) -> None:
    for name in CPUS:
        prepare.prepare(name, tmp_path)
    gone = prepare.remove("cortex-a72", tmp_path)
    assert {name.rsplit("-", 1)[0] for name in gone} == {"cortex-a72", "cortex-a72-started"}
    assert prepare.state("cortex-a76", tmp_path).ready
    prepare.remove("cortex-a76", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert prepare.remove("cortex-a76", tmp_path / "none") == ()


def test_removing_takes_each_part_by_its_own_name(built: list[str], tmp_path: Path) -> None:
    # One name begins with another.
    prepare.prepare("cortex-a72", tmp_path, extra=("lite", "litert"))
    gone = prepare.remove("cortex-a72", tmp_path)
    assert len(gone) == len(set(gone))
    assert {"lite", "litert"} <= {name.rsplit("-", 1)[0] for name in gone}
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def without(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """Let those programs be missing on this machine, and no other."""
    monkeypatch.setattr(
        prepare, "missing_programs", lambda wanted: tuple(p for p in wanted if p in programs)
    )


def test_a_cross_compiler_is_asked_for_where_it_builds_something(
    built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch, emulator.CROSS_COMPILER)
    assert prepare.prepare("cortex-a72", tmp_path, extra=("lite", "litert")).ready
    built.clear()
    with pytest.raises(UnsupportedHereError, match=r"apt-get install .* g\+\+-aarch64-linux-gnu"):
        prepare.prepare("cortex-a72", tmp_path, extra=("executorch",))
    assert built == []
    states = {part.part: part for part in prepare.state("cortex-a72", tmp_path).parts}
    assert not states[emulator.CROSS_COMPILER].ready
    assert "g++-aarch64-linux-gnu" in states[emulator.CROSS_COMPILER].detail
    assert states["executorch"].detail.endswith("target prepare cortex-a72 --with executorch")


def test_compilers_are_not_asked_for_where_everything_is_built(
    built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepare.prepare("cortex-a72", tmp_path, extra=("executorch",))
    built.clear()
    without(monkeypatch, emulator.COMPILER, emulator.CROSS_COMPILER)
    state = prepare.prepare("cortex-a72", tmp_path, extra=("executorch",))
    assert built == []
    found = {part.part: part for part in state.parts}
    for program in (emulator.COMPILER, emulator.CROSS_COMPILER):
        assert found[program].ready
        assert "nor needed" in found[program].detail


def test_missing_programs_are_all_named_with_one_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnsupportedHereError) as caught:
        prepare.prepare("cortex-a72", tmp_path)
    assert "qemu-aarch64 and cc missing" in str(caught.value)
    assert "apt-get install --yes --no-install-recommends qemu-user gcc" in str(caught.value)
    assert not list(tmp_path.iterdir())
    states = {part.part: part for part in prepare.state("cortex-a72", tmp_path).parts}
    assert not states["qemu-aarch64"].ready
    assert "qemu-user" in states["qemu-aarch64"].detail


def test_packages_are_installed_by_root_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch, "qemu-aarch64")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedHereError, match="only root"):
        prepare.prepare("cortex-a72", tmp_path, install_system_packages=True)
    ran: list[list[str]] = []

    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 100, "", "E: no network")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(UnsupportedHereError, match="E: no network"):
        prepare.prepare("cortex-a72", tmp_path, install_system_packages=True)
    assert ran[-1][:2] == ["apt-get", "install"]
    assert ran[-1][-1] == "qemu-user"


def test_without_debian_there_is_no_sysroot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnsupportedHereError, match="Debian 12"):
        sysroot.build_sysroot(tmp_path / "root", tmp_path, lambda text: None)


def test_sources_without_arm64_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        text = "W: old\nE: Unable to locate package python3.11-minimal\n"
        return subprocess.CompletedProcess(command, 100, "", text)

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(UnsupportedHereError, match="Unable to locate package"):
        sysroot.build_sysroot(tmp_path / "root", tmp_path, lambda text: None)


def test_apt_is_given_a_state_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[list[str]] = []

    def accept(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        if "download" in command:
            (tmp_path / "debs" / "libc6_2.36-9%3a1_arm64.deb").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", accept)
    sysroot.build_sysroot(tmp_path / "root", tmp_path, lambda text: None)
    for command in ran[:2]:
        assert "APT::Architecture=arm64" in command
        assert f"Dir::State={tmp_path}" in command
    assert ran[2][:2] == ["dpkg-deb", "--extract"]
    assert sysroot.package_versions(tmp_path) == {"libc6": "2.36-9:1"}


def test_a_target_that_is_not_prepared_says_the_command(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedHereError, match="edgeveil target prepare cortex-a72"):
        EmulatedTarget("cortex-a72", tmp_path)
    monkeypatch.setattr(emulated, "find_emulator", lambda: None)
    with pytest.raises(UnsupportedHereError, match="qemu-user"):
        EmulatedTarget("cortex-a72", tmp_path)
    with pytest.raises(InputError):
        EmulatedTarget("cortex-m0", tmp_path)


def test_the_guest_gets_no_variable_of_the_host(built: list[str], tmp_path: Path) -> None:
    prepare.prepare("cortex-a76", tmp_path)
    guest = emulated.Guest(CPUS["cortex-a76"], tmp_path, Emulator("/bin/qemu", "qemu 1"))
    assert set(guest.environment()) == {
        *("PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "LANG", "PYTHONDONTWRITEBYTECODE"),
        "ORT_DISABLE_TELEMETRY",
    }
    command = guest.command(counts=tmp_path / "counts")
    assert command[:3] == ["/bin/qemu", "-cpu", "cortex-a76"]
    assert command[command.index("-plugin") + 1].endswith(f"counter.so,out={tmp_path / 'counts'}")


def test_the_counter_builds_without_a_warning(tmp_path: Path) -> None:
    if emulator.find_compiler() is None:
        pytest.skip("there is no C compiler here")
    done = subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(emulator.SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    emulator.build_counter(tmp_path / "counter.so")
    assert (tmp_path / "counter.so").stat().st_size > 0


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnsupportedHereError, match=r"apt-get install .* gcc"):
        emulator.build_counter(tmp_path / "counter.so")
    with pytest.raises(UnsupportedHereError, match=r"apt-get install .* g\+\+-aarch64-linux-gnu"):
        emulator.build_executorch_runner(tmp_path, "1.5.1", tmp_path / "runner")


def test_a_compiler_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'In file x:' >&2\necho 'x.h: error: no y' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(compiler))
    with pytest.raises(UnsupportedHereError, match=r"cannot build .*ExecuTorch.*: error: no y"):
        emulator.build_executorch_runner(tmp_path, "1.5.1", tmp_path / "runner")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVEIL_TARGETS", str(tmp_path / "mine"))
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("EDGEVEIL_TARGETS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "edgeveil" / "targets"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "edgeveil" / "targets"


def test_a_part_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, str]:
        (folder / "half").touch()
        raise UnsupportedHereError("no network")

    with locked(tmp_path):
        with pytest.raises(UnsupportedHereError):
            build_part(tmp_path, "p", KEY, fail)
        assert part_facts(tmp_path, "p", KEY) is None
        assert not part_folder(tmp_path, "p", KEY).exists()
        build_part(tmp_path, "p", KEY, lambda folder: {"a": "b"})
    assert part_facts(tmp_path, "p", KEY) == {"a": "b"}
    assert part_facts(tmp_path, "p", KEY[:-2] + "00") is None
    assert not list(tmp_path.glob(f"*{PARTIAL_SUFFIX}"))
