"""Known remarks of native code are left out; everything else reaches the user."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from export.executorch_import import quiet_import
from runtime_check.native_stderr import without_remarks

ROOT = Path(__file__).resolve().parents[2]
KNOWN = re.compile(rb"INFO: all is well")


def test_only_the_known_lines_are_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    with without_remarks(KNOWN):
        os.write(2, b"INFO: all is well\nERROR: it is not\nsaid: INFO: all is well\n")
    os.write(2, b"INFO: all is well after it\n")
    assert capfd.readouterr().err == (
        "ERROR: it is not\nsaid: INFO: all is well\nINFO: all is well after it\n"
    )


def test_a_failure_shows_every_line(capfd: pytest.CaptureFixture[str]) -> None:
    def load() -> None:
        os.write(2, b"INFO: all is well\nERROR: bad file\n")
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"), without_remarks(KNOWN):
        load()
    assert capfd.readouterr().err == "INFO: all is well\nERROR: bad file\n"


def test_a_closed_stderr_is_no_error() -> None:
    program = (
        "import os, re; os.close(2)\n"
        "from runtime_check.native_stderr import without_remarks\n"
        "with without_remarks(re.compile(b'x')): print('ran')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "ran\n"


def test_other_logs_pass_while_a_package_is_imported(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("torch.utils._pytree")
    log.propagate, before = True, log.propagate
    try:
        with quiet_import():
            log.warning("%s is an Enum subclass and is now natively supported by torch", "A")
            log.warning("something else")
        log.warning("%s is an Enum subclass and is now natively supported by torch", "B")
    finally:
        log.propagate = before
    assert [record.args or record.msg for record in caplog.records] == ["something else", ("B",)]


@pytest.mark.skipif(find_spec("executorch") is None, reason="the extra executorch is missing")
def test_executorch_says_nothing_when_all_is_well() -> None:
    program = "import runtime_check.executorch as r, export.pte; r._set_threads(1)"
    assert _stderr(program) == ""


@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="the extra litert is missing")
def test_litert_still_says_what_is_wrong_with_a_file() -> None:
    program = (
        "from runtime_check.litert import load_litert\n"
        "class Named: name = 'edge'\n"
        "load_litert(b'no model', Named, threads=1)"
    )
    assert "LiteRT cannot load edge" in _stderr(program)


def _stderr(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stderr
