from __future__ import annotations

import pytest

from records.errors import InputError
from runtime_check.machine import parse_cpu_model, parse_flags
from runtime_check.targets.cpus import CPUS, cpu_named


@pytest.mark.parametrize(
    ("name", "model", "midr"),
    # Main ID registers as the Technical Reference Manuals and qemu's CPU models give them.
    [("cortex-a72", "Cortex-A72", 0x410FD083), ("cortex-a76", "Cortex-A76", 0x414FD0B1)],
)
def test_linux_files_name_the_core(name: str, model: str, midr: int) -> None:
    files = cpu_named(name).files()
    assert parse_cpu_model(files["proc/cpuinfo"]) == model
    assert parse_flags(files["proc/cpuinfo"]) == set(cpu_named(name).features)
    register = files["sys/devices/system/cpu/cpu0/regs/identification/midr_el1"]
    assert int(register, 16) == midr


def test_only_the_newer_core_has_dot_products() -> None:
    assert "asimddp" in CPUS["cortex-a76"].features
    assert "asimddp" not in CPUS["cortex-a72"].features


def test_an_unknown_cpu_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"cortex-m0.*cortex-a72 or cortex-a76"):
        cpu_named("cortex-m0")
