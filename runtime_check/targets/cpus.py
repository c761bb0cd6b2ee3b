"""The emulated ARM CPUs: how qemu names them, and the Linux files that runtimes read of them."""

from __future__ import annotations

from dataclasses import dataclass

from records.errors import InputError


@dataclass(frozen=True)
class Cpu:
    """One CPU as qemu-user emulates it and as Linux would describe it.

    Attributes:
        name: of the target and of qemu's ``-cpu``.
        board: a well-known computer with it.
        part: MIDR_EL1.PartNum, from the core's Technical Reference Manual.
        features: of /proc/cpuinfo; ``asimddp`` is the 8-bit dot product.
    """

    name: str
    board: str
    part: int
    variant: int
    revision: int
    features: tuple[str, ...]

    def cpuinfo(self) -> str:
        """Return /proc/cpuinfo of one core."""
        lines = {
            "processor": "0",
            "BogoMIPS": "108.00",
            "Features": " ".join(self.features),
            "CPU implementer": "0x41",
            "CPU architecture": "8",
            "CPU variant": f"{self.variant:#x}",
            "CPU part": f"{self.part:#05x}",
            "CPU revision": str(self.revision),
        }
        return "".join(f"{key}\t: {value}\n" for key, value in lines.items()) + "\n"

    @property
    def midr(self) -> int:
        """MIDR_EL1: implementer, variant, architecture (0xf: by features), part, revision."""
        return 0x41 << 24 | self.variant << 20 | 0xF << 16 | self.part << 4 | self.revision

    def files(self) -> dict[str, str]:
        """Return what is put before the host's files: path below the root → content.

        Without them ONNX Runtime reads the host's /proc/cpuinfo, finds no ARM core and crashes.
        """
        cpus = "sys/devices/system/cpu"
        return {
            "proc/cpuinfo": self.cpuinfo(),
            f"{cpus}/possible": "0\n",
            f"{cpus}/present": "0\n",
            f"{cpus}/online": "0\n",
            f"{cpus}/kernel_max": "0\n",
            f"{cpus}/cpu0/regs/identification/midr_el1": f"{self.midr:#018x}\n",
        }


_ARMV8 = ("fp", "asimd", "evtstrm", "crc32", "cpuid")
CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu("cortex-a72", "Raspberry Pi 4", 0xD08, 0, 3, _ARMV8),
        Cpu(
            "cortex-a76",
            "Raspberry Pi 5",
            0xD0B,
            4,
            1,
            (
                *("fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "atomics"),
                *("fphp", "asimdhp", "cpuid", "asimdrdm", "lrcpc", "dcpop", "asimddp"),
            ),
        ),
    )
}


def cpu_named(name: str) -> Cpu:
    """Return the emulated CPU of a target's name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in CPUS:
        raise InputError(f"{name!r} is not an emulated target; use {' or '.join(CPUS)}")
    return CPUS[name]
