from __future__ import annotations

import subprocess
import sys
import time

import pytest
from msgspec.structs import replace

from benchmarks.machine_state import CpuUse, cpu_use
from benchmarks.timing import Measured, Subject, interleave
from benchmarks.validity import block_spread, criteria, drift, off_cpu, throttled
from records.bench import Criterion
from records.machine import MachineRecord, MachineState
from records.recipe import BenchRecipe
from runtime_check.machine import machine_record

QUIET = MachineState(
    load_average=None,
    temperatures_c={},
    frequencies_mhz=(),
    throttled_bits=None,
    throttle_count=None,
)
IDLE = (CpuUse(0.0, 0.0, 0.0, 0.0, 0.0), CpuUse(10.0, 0.0, 20.0, 10.0, 10.0))
STEADY = Measured("steady", tuple((1000, 1010, 1020) for _ in range(30)), 9.9, 10.0)


@pytest.fixture
def here() -> MachineRecord:
    return replace(machine_record(), arch="aarch64", emulated=None)


def _failed(found: tuple[Criterion, ...]) -> list[str]:
    return [criterion.name for criterion in found if not criterion.met]


def _blocks(medians: list[int]) -> Measured:
    return Measured("x", tuple((median,) * 5 for median in medians), 9.9, 10.0)


def test_a_quiet_run_is_valid(here: MachineRecord) -> None:
    found = criteria([STEADY], here, (QUIET, QUIET), IDLE)
    assert _failed(found) == []
    assert len({criterion.name for criterion in found}) == 8


def test_spread_of_block_medians(here: MachineRecord) -> None:
    uneven = _blocks([1000, 1300] * 15)
    assert block_spread(STEADY) == 0.0
    assert block_spread(uneven) == pytest.approx(0.3)
    found = criteria([STEADY, uneven], here, (QUIET, QUIET), IDLE)
    assert _failed(found) == ["spread of block medians"]
    assert found[0].where == "x"


def test_drift_is_seen_where_the_spread_is_small(here: MachineRecord) -> None:
    creeping = _blocks([1000 + 6 * i for i in range(30)])
    assert drift(creeping) > 0.1
    assert block_spread(creeping) < 0.2
    assert _failed(criteria([creeping], here, (QUIET, QUIET), IDLE)) == ["drift of block medians"]


def test_waiting_for_a_cpu_is_seen(here: MachineRecord) -> None:
    waiting = Measured("x", STEADY.blocks, 9.0, 10.0)
    assert off_cpu(waiting) == pytest.approx(0.1)
    assert off_cpu(Measured("x", STEADY.blocks, 19.0, 10.0)) == 0.0
    assert _failed(criteria([waiting], here, (QUIET, QUIET), IDLE)) == ["wall time off the CPU"]


@pytest.mark.parametrize(
    ("after", "name"),
    [
        (CpuUse(15.0, 0.0, 20.0, 10.0, 10.0), "CPU time of other processes"),
        (CpuUse(10.0, 1.0, 20.0, 10.0, 10.0), "CPU time stolen by the hypervisor"),
    ],
)
def test_neighbours(here: MachineRecord, after: CpuUse, name: str) -> None:
    assert _failed(criteria([STEADY], here, (QUIET, QUIET), (IDLE[0], after))) == [name]


def test_what_the_machine_does_not_tell_is_not_held_against_it(here: MachineRecord) -> None:
    silent = CpuUse(None, None, None, 0.0, 0.0)
    found = criteria([STEADY], here, (QUIET, QUIET), (silent, silent))
    assert _failed(found) == []
    assert [c.value for c in found if "CPU time" in c.name] == [None, None]


@pytest.mark.parametrize(
    ("before", "after", "signs"),
    [
        (0x0, 0x0, 0),
        (0x50000, 0x50000, 0),
        (0x0, 0x50005, 4),
        (0x4, 0x4, 1),
        (None, None, None),
    ],
)
def test_raspberry_pi_throttling(before: int | None, after: int | None, signs: int | None) -> None:
    states = (replace(QUIET, throttled_bits=before), replace(QUIET, throttled_bits=after))
    assert throttled(*states) == signs


def test_throttled_run_is_invalid(here: MachineRecord) -> None:
    states = (replace(QUIET, throttle_count=3), replace(QUIET, throttle_count=4))
    assert _failed(criteria([STEADY], here, states, IDLE)) == ["throttling events"]


def test_a_hot_arm_board_is_invalid_and_a_hot_x86_is_not(here: MachineRecord) -> None:
    hot = replace(QUIET, temperatures_c={"cool": 40.0, "cpu-thermal": 82.5})
    found = criteria([STEADY], here, (QUIET, hot), IDLE)
    assert _failed(found) == ["temperature in °C"]
    assert found[6].where == "cpu-thermal"
    assert _failed(criteria([STEADY], replace(here, arch="x86_64"), (QUIET, hot), IDLE)) == []


def test_an_emulated_run_is_invalid(here: MachineRecord) -> None:
    emulated = replace(here, emulated="qemu-aarch64")
    assert _failed(criteria([STEADY], emulated, (QUIET, QUIET), IDLE)) == ["emulated"]


def test_injected_noise_makes_a_real_run_invalid(here: MachineRecord) -> None:
    """Busy processes, two for each core, run beside the measurement."""
    code = "while True: pass"
    noise = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2 * here.cores)]
    try:
        before = cpu_use()
        (measured,) = interleave([Subject("x", _spin)], BenchRecipe())
        after = cpu_use()
    finally:
        for process in noise:
            process.kill()
            process.wait()
    found = criteria([measured], here, (QUIET, QUIET), (before, after))
    assert {"CPU time of other processes", "wall time off the CPU"} <= set(_failed(found))


def _spin() -> None:
    end = time.process_time_ns() + 1_000_000
    while time.process_time_ns() < end:
        pass
