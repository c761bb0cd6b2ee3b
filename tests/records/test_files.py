from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from records import files
from records.errors import OverwriteError


def test_a_file_appears_whole_and_readable(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "result.bin"
    files.write_bytes(target, b"abc")
    assert target.read_bytes() == b"abc"
    assert target.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in target.parent.iterdir()] == ["result.bin"]


def test_an_existing_file_is_kept_unless_replaced(tmp_path: Path) -> None:
    target = tmp_path / "result.bin"
    files.write_bytes(target, b"old")
    with pytest.raises(OverwriteError, match=r"result\.bin already exists"):
        files.write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    files.write_bytes(target, b"new", replace=True)
    assert target.read_bytes() == b"new"


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        files.write_file(tmp_path / "result.bin", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def half_fill() -> None:
        with files.new_folder(target) as partial:
            (partial / "a").write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        half_fill()
    assert list(tmp_path.iterdir()) == []
    with files.new_folder(target) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("whole")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "whole"


def test_a_folder_is_kept_unless_replaced(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with files.new_folder(target) as partial:
        (partial / "old").write_text("old")
    with pytest.raises(OverwriteError), files.new_folder(target):
        pass
    with files.new_folder(target, replace=True) as partial:
        (partial / "new").write_text("new")
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_killed_writer_leaves_only_a_partial_that_is_found_again(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from records import files\n"
        "def slow(partial):\n"
        "    partial.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
        "files.write_file(Path(sys.argv[1]) / 'result.bin', slow)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    time.sleep(0.01)
    assert not (tmp_path / "result.bin").exists()
    assert len(files.remove_partials(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
