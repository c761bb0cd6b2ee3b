from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.machine_state import CpuUse, cpu_use, machine_state, others_share, stolen_share


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_state_of_a_raspberry_pi(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": "48312\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1500000\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    state = machine_state(root)
    assert state.temperatures_c == {"thermal_zone0:cpu-thermal": 48.312}
    assert state.frequencies_mhz == (600.0, 1500.0)
    assert state.throttled_bits == 0x50005
    assert state.throttle_count is None


def test_throttling_from_vcgencmd(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"usr/bin/vcgencmd": "#!/bin/sh\necho throttled=0x50000\n"})
    (root / "usr/bin/vcgencmd").chmod(0o755)
    assert machine_state(root).throttled_bits == 0x50000


def test_a_broken_vcgencmd_tells_nothing(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"usr/bin/vcgencmd": "no program"})
    assert machine_state(root).throttled_bits is None


def test_throttle_events_of_x86_are_added_up(tmp_path: Path) -> None:
    name = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    root = _tree(tmp_path, {name.format(0): "3\n", name.format(1): "4\n"})
    assert machine_state(root).throttle_count == 7


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    state = machine_state(tmp_path)
    assert (state.temperatures_c, state.frequencies_mhz) == ({}, ())
    assert (state.throttled_bits, state.throttle_count) == (None, None)
    assert cpu_use(tmp_path).total is None


def test_proc_stat_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    # user nice system idle iowait irq softirq steal guest guest_nice
    root = _tree(tmp_path, {"proc/stat": "cpu  100 200 300 4000 500 6 7 80 90 10\ncpu0 1\n"})
    use = cpu_use(root)
    assert use.total == pytest.approx(51.93)
    assert use.stolen == pytest.approx(0.8)
    assert use.busy == pytest.approx(6.13)


def test_shares() -> None:
    before = CpuUse(busy=10.0, stolen=1.0, total=100.0, own=5.0, wall=0.0)
    after = CpuUse(busy=18.0, stolen=2.0, total=120.0, own=10.0, wall=10.0)
    assert stolen_share(before, after) == pytest.approx(1 / 20)
    assert others_share(before, after) == pytest.approx(3 / 20)


def test_own_work_is_not_others() -> None:
    # One tick of /proc/stat is 10 ms, so half a second of work is known to some per cent.
    before = cpu_use()
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
    after = cpu_use()
    assert after.own - before.own >= 0.5
    share = others_share(before, after)
    assert share is not None
    assert 0.0 <= share <= 1.0


def test_vcgencmd_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _tree(tmp_path, {"vcgencmd": "#!/bin/sh\necho throttled=0x4\n"})
    (root / "vcgencmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}:/usr/bin:/bin")
    assert machine_state().throttled_bits == 0x4
