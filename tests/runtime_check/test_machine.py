from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from records import codec
from records.machine import MachineRecord
from runtime_check import machine
from runtime_check.machine import machine_record, parse_cpu_model, parse_flags, usable_cores

XEON = "processor : 0\nmodel name\t: Intel Xeon\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor : 1\n"
PI4 = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU part\t: 0xd08\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)
BIG_LITTLE = (
    "Features : asimd asimddp\nCPU implementer : 0x41\nCPU part : 0xd05\nCPU part : 0xd0b\n"
)


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_flags_of_x86_and_arm() -> None:
    assert parse_flags(XEON) == {"fpu", "avx2", "avx512_vnni"}
    assert parse_flags(PI4) == {"fp", "asimd", "evtstrm", "crc32", "cpuid"}
    assert parse_flags("") == frozenset()


def test_first_processor_wins() -> None:
    assert parse_flags("flags : a\nflags : b\n") == {"a"}


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (XEON, "Intel Xeon"),
        (PI4, "Cortex-A72"),
        (BIG_LITTLE, "Cortex-A55 + Cortex-A76"),
        ("CPU implementer : 0x61\nCPU part : 0x022\n", "implementer 0x61 part 0x022"),
        ("", None),
    ],
)
def test_cpu_model(cpuinfo: str, name: str | None) -> None:
    assert parse_cpu_model(cpuinfo) == name


@pytest.mark.parametrize(
    ("arch", "flags", "vnni", "precise"),
    [
        ("x86_64", {"avx2"}, False, True),
        ("x86_64", {"avx2", "avx_vnni"}, True, False),
        ("AMD64", {"avx512_vnni"}, True, False),
        ("aarch64", {"asimd"}, False, False),
        ("arm64", set(), False, False),
    ],
)
def test_precise_mode_is_for_x86_without_vnni(
    monkeypatch: pytest.MonkeyPatch, arch: str, flags: set[str], vnni: bool, precise: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: arch)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags))
    assert machine.has_vnni() is vnni
    assert machine.needs_precise_mode() is precise
    assert machine_record().ort_mode == ("precise" if precise else "default")


def test_record_of_a_raspberry_pi(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/cpuinfo": PI4,
            "proc/meminfo": "MemTotal:        3884360 kB\n",
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "ondemand\n",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1500000\n",
            "etc/os-release": 'NAME=x\nPRETTY_NAME="Debian GNU/Linux 12"\n',
        },
    )
    record = machine_record(root)
    assert record.cpu_model == "Cortex-A72"
    assert record.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert record.isa == ("asimd",)
    assert record.governors == ("ondemand",)
    assert record.max_frequency_mhz == 1500.0
    assert record.memory_bytes == 3884360 * 1024
    assert record.os == "Debian GNU/Linux 12"
    assert record.virtual is None
    assert record.emulated is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/cpuinfo": "flags : hypervisor\n"}, "virtual machine (hypervisor not named)"),
        (
            {"proc/cpuinfo": "flags : hypervisor\n", "sys/class/dmi/id/product_name": "KVM\n"},
            "virtual machine (KVM)",
        ),
        ({".dockerenv": ""}, "container"),
        ({}, None),
    ],
)
def test_virtual_machine(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    assert machine_record(_tree(tmp_path, files)).virtual == expected


def test_user_mode_emulator_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.get_native_id", lambda: 7)
    link = tmp_path / "proc/self/task/7/exe"
    link.parent.mkdir(parents=True)
    link.symlink_to("/usr/bin/qemu-aarch64")
    assert machine_record(tmp_path).emulated == "qemu-aarch64"


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", None), ("100000 100000", 1)])
def test_a_quota_cuts_the_cores(tmp_path: Path, quota: str, cores: int | None) -> None:
    root = _tree(tmp_path, {"sys/fs/cgroup/cpu.max": quota})
    assert usable_cores(root) == (cores or len(os.sched_getaffinity(0)))


def test_affinity_cuts_the_cores() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from runtime_check.machine import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_this_machine_round_trips() -> None:
    record = machine_record()
    assert codec.decode(codec.encode(record), MachineRecord, "here") == record
    assert record.versions["onnxruntime"]
    assert record.cores <= record.cores_online


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    record = machine_record(tmp_path)
    assert (record.isa, record.governors, record.memory_bytes) == ((), (), None)
