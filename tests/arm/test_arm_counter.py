"""The instruction counter against machine code whose instructions are known, and the ARM CPUs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runtime_check import saturation_model
from runtime_check.targets import parts
from runtime_check.targets.counters import CLASSES, parse_marks
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import Guest
from runtime_check.targets.emulator import find_emulator
from runtime_check.targets.sysroot import PYTHON
from tests.arm.arm_targets import prepared

pytestmark = [pytest.mark.arm, pytest.mark.slow]

#: One instruction of each kind, assembled by hand from the encodings of the Arm manual.
WORDS = {
    "nop": 0xD503201F,
    "sdot v0.4s, v1.16b, v2.16b": 0x4E829420,
    "udot v0.4s, v1.16b, v2.4b[0]": 0x6F82E020,
    "smlal v0.8h, v1.8b, v2.8b": 0x0E228020,
    "umull v0.8h, v1.8b, v2.8b": 0x2E22C020,
    "smull v0.4s, v1.4h, v2.h[0]": 0x0F42A020,
    "fmla v0.4s, v1.4s, v2.4s": 0x4E22CC20,
    "fmla v0.4s, v1.4s, v2.s[0]": 0x4F821020,
    "fmul v0.4s, v1.4s, v2.4s": 0x6E22DC20,
    "add x9, x9, #1": 0x91000529,
}
CLASS_OF = {
    "sdot": "dot",
    "udot": "dot",
    "smlal": "widening_multiply",
    "umull": "widening_multiply",
    "smull": "widening_multiply",
    "fmla": "fmla",
}
#: Written by the guest into memory that it may execute, then called between two marks.
SCRIPT = """
import ctypes, mmap, sys
word, system_call = int(sys.argv[1]), ctypes.CDLL(None).syscall
def function(count):
    code = mmap.mmap(-1, 4 * (count + 1), prot=7)
    code.write(word.to_bytes(4, "little") * count + (0xD65F03C0).to_bytes(4, "little"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return code, ctypes.CFUNCTYPE(None)(address)
few, many = function(100), function(1100)
number = 0
for _, call in (few, many) * 3:
    system_call(7777, ctypes.c_uint64(number))
    call()
    system_call(7777, ctypes.c_uint64(number + 1))
    number += 2
"""


@pytest.fixture(scope="module", params=sorted(CPUS))
def guest(request: pytest.FixtureRequest) -> Guest:
    root, emulator = prepared(request.param), find_emulator()
    assert emulator is not None
    return Guest(CPUS[request.param], root, emulator)


def run(guest: Guest, counts: Path | None, *arguments: str) -> str:
    command = guest.command(counts=counts)
    prefix = parts.cpu_part(guest.cpu, guest.root).folder(guest.root)
    assert command[-2] == str(prefix / PYTHON)
    done = subprocess.run(
        [*command[:-1], "-c", *arguments],
        capture_output=True,
        text=True,
        env=guest.environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("instruction", WORDS)
def test_a_known_instruction_is_counted_in_its_class(
    guest: Guest, instruction: str, tmp_path: Path
) -> None:
    kind = instruction.split()[0]
    if CLASS_OF.get(kind) == "dot" and "asimddp" not in guest.cpu.features:
        pytest.skip("this CPU has no such instruction")
    run(guest, tmp_path / "counts", SCRIPT, str(WORDS[instruction]))
    marks = parse_marks((tmp_path / "counts").read_text(encoding="ascii"))
    few, many = marks[9].counts, marks[11].counts
    start_few, start_many = marks[8].counts, marks[10].counts
    found = {n: (many[n] - start_many[n]) - (few[n] - start_few[n]) for n in CLASSES}
    # The call from Python costs a little more or less each time, in scalar instructions only.
    assert found.pop("all") == pytest.approx(1000, abs=200)
    expected = dict.fromkeys(found, 0)
    if "v0" in instruction:
        expected["simd_fp"] = 1000
    if kind in CLASS_OF:
        expected[CLASS_OF[kind]] = 1000
    assert found == expected


def test_the_guest_sees_the_cpu_that_it_is_given(guest: Guest) -> None:
    said = run(guest, None, "print(open('/proc/cpuinfo').read(), end='')")
    assert said == guest.cpu.cpuinfo()


def test_int8_products_are_exact_there(guest: Guest, tmp_path: Path) -> None:
    # The same model on an x86 CPU without VNNI saturates, in the same default mode.
    (tmp_path / "model.onnx").write_bytes(saturation_model.saturation_model())
    code = (
        "import numpy, onnxruntime, sys\n"
        "session = onnxruntime.InferenceSession(sys.argv[1])\n"
        f"a = numpy.full(({saturation_model.ROWS}, {saturation_model.DEPTH}), "
        f"{saturation_model.A}, numpy.uint8)\n"
        "print(*numpy.unique(session.run(['y'], {'a': a})[0]))"
    )
    assert run(guest, None, code, str(tmp_path / "model.onnx")).split() == [
        str(saturation_model.EXPECTED)
    ]
