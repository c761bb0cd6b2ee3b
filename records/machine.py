"""The record of a machine: what it is, and the state it was in before and after measuring."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class MachineRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What does not change while a program runs.

    ``cores``: logical CPUs that this process may use (affinity and container quota applied), out
    of ``cores_online``. ``isa``: those CPU flags that decide which kernels run (see
    ``runtime_check.machine.ISA_FLAGS``). ``vnni``: 8-bit dot products without 16-bit saturation
    (x86 only; False elsewhere). ``ort_mode``: ``precise`` on x86 without VNNI, ``default``
    otherwise. ``governors``: distinct cpufreq governors, empty where there is no cpufreq.
    ``virtual``: what is known of a virtual machine, else None. ``emulated``: the user-mode
    emulator under which this process runs; its times are no device's times.
    ``versions``: of the runtimes and libraries that are installed.
    """

    cpu_model: str
    board: str | None
    arch: str
    isa: tuple[str, ...]
    vnni: bool
    ort_mode: Literal["default", "precise"]
    cores: Annotated[int, Meta(ge=1)]
    cores_online: Annotated[int, Meta(ge=1)]
    max_frequency_mhz: float | None
    memory_bytes: int | None
    governors: tuple[str, ...]
    virtual: str | None
    emulated: str | None
    os: str
    kernel: str
    python: str
    versions: dict[str, str]


class MachineState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What changes: read before and after a measurement, kept under a ``timing`` key.

    ``load_average``: 1, 5 and 15 minutes. ``temperatures_c``: degrees Celsius by sensor.
    ``frequencies_mhz``: of each CPU, where cpufreq tells it. ``throttled_bits``: the Raspberry Pi
    firmware's word (0 is none; bits 0–3 now, 16–19 since boot), None elsewhere.
    ``throttle_count``: thermal throttle events of all CPUs since boot (x86), None elsewhere.
    """

    load_average: tuple[float, float, float] | None
    temperatures_c: dict[str, float]
    frequencies_mhz: tuple[float, ...]
    throttled_bits: int | None
    throttle_count: int | None
