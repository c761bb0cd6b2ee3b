"""What a device answered, bounded in every size, and the record of a run on a device.

A device is not trusted: its texts are short and printable, its numbers finite, its lists bounded.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from records.bench import Criterion, Skipped
from records.machine import MachineRecord, MachineState
from records.manifest import Sha256
from records.parity import Count, LsbDifference, Mode

SCHEMA = "edgeveil.device/1"
RECORD_NAME = "device.json"
CHECK_SCHEMA = "edgeveil.device-check/1"

#: Without control characters: a text of a device is shown on a terminal.
Text = Annotated[str, Meta(max_length=300, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]
Positive = Annotated[float, Meta(ge=0.0, le=1e30)]
Word = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Histogram = Annotated[tuple[Word, ...], Meta(min_length=1, max_length=256)]
Nanoseconds = Annotated[int, Meta(ge=0, le=10**13)]


class DevicePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the record's parts: frozen, keyword-only, unknown keys refused."""


class KitMachine(DevicePart, frozen=True, kw_only=True):
    """`records.machine.MachineRecord` as a device sends it."""

    cpu_model: Text
    board: Text | None
    arch: Text
    isa: Annotated[tuple[Text, ...], Meta(max_length=64)]
    vnni: bool
    ort_mode: Literal["default", "precise"]
    cores: Annotated[int, Meta(ge=1, le=4096)]
    cores_online: Annotated[int, Meta(ge=1, le=4096)]
    max_frequency_mhz: Positive | None
    memory_bytes: Word | None
    governors: Annotated[tuple[Text, ...], Meta(max_length=64)]
    virtual: Text | None
    emulated: Text | None
    os: Text
    kernel: Text
    python: Text
    versions: Annotated[dict[Text, Text], Meta(max_length=64)]

    def record(self) -> MachineRecord:
        """Return the same as the record of a machine."""
        return MachineRecord(**msgspec.structs.asdict(self))


class KitState(DevicePart, frozen=True, kw_only=True):
    """`records.machine.MachineState` as a device sends it."""

    load_average: tuple[Positive, Positive, Positive] | None
    temperatures_c: Annotated[dict[Text, Finite], Meta(max_length=256)]
    frequencies_mhz: Annotated[tuple[Positive, ...], Meta(max_length=4096)]
    throttled_bits: Word | None
    throttle_count: Word | None

    def record(self) -> MachineState:
        """Return the same as the record of a machine's state."""
        return MachineState(**msgspec.structs.asdict(self))


class KitCpuUse(DevicePart, frozen=True, kw_only=True):
    """CPU seconds as a device sends them; see `benchmarks.machine_state.CpuUse`."""

    busy: Finite | None
    stolen: Finite | None
    total: Finite | None
    own: Finite
    wall: Finite


class KitSkipped(DevicePart, frozen=True, kw_only=True):
    """An artifact that did not run on the device, and why."""

    artifact: Text
    reason: Text


class KitWorst(DevicePart, frozen=True, kw_only=True):
    """One of the sample's images that differ most; see `records.parity.WorstImage`."""

    index: Word
    max_lsb: Annotated[int, Meta(ge=0, le=255)]
    sum_lsb: Word


class KitRow(DevicePart, frozen=True, kw_only=True):
    """One artifact of a kit's check, as a device sends it.

    An INT8 edge has ``from_eager`` and ``from_host``, histograms of differences in LSB; an FP32
    edge ``signal``, ``noise`` and ``max_abs`` against the host. ``failure``: why it did not run.
    """

    artifact: Text
    mode: Mode
    failure: Text | None
    from_eager: Histogram | None = None
    from_host: Histogram | None = None
    off_grid: Word = 0
    worst: Annotated[tuple[KitWorst, ...], Meta(max_length=16)] = ()
    signal: Positive | None = None
    noise: Positive | None = None
    max_abs: Positive | None = None


class KitFacts(DevicePart, frozen=True, kw_only=True):
    """What a device says of itself, with every record. ``kit``: SHA-256 of its ``kit.json``."""

    kit: Sha256
    host: Text
    machine: KitMachine
    soc: Annotated[tuple[Text, ...], Meta(max_length=16)]


class KitCheck(KitFacts, frozen=True, kw_only=True):
    """A kit's check, as a device sends it."""

    preprocessing_identical: bool
    rows: Annotated[tuple[KitRow, ...], Meta(max_length=64)]
    skipped: Annotated[tuple[KitSkipped, ...], Meta(max_length=64)]


class KitTimes(DevicePart, frozen=True, kw_only=True):
    """The samples of one artifact, as a device sends them: nanoseconds, block by block."""

    artifact: Text
    mode: Mode
    blocks_ns: Annotated[
        tuple[Annotated[tuple[Nanoseconds, ...], Meta(min_length=1)], ...], Meta(min_length=1)
    ]
    cpu_seconds: Positive
    wall_seconds: Positive


class KitBench(KitFacts, frozen=True, kw_only=True):
    """A kit's interleaved run with one thread count, as a device sends it."""

    threads: Annotated[int, Meta(ge=1, le=4096)]
    started_at: Text
    ended_at: Text
    seconds: Positive
    before: KitState
    after: KitState
    use_before: KitCpuUse
    use_after: KitCpuUse
    artifacts: Annotated[tuple[KitTimes, ...], Meta(max_length=64)]
    skipped: Annotated[tuple[KitSkipped, ...], Meta(max_length=64)]


class DeviceGate(DevicePart, frozen=True, kw_only=True):
    """One limit, fixed when the kit was made; ``artifact`` None: it is on the input.

    ``measured`` None: the artifact did not run (``runs``), or there is no difference at all.
    """

    name: Literal[
        "preprocessing_differs",
        "runs",
        "off_grid",
        "max_lsb",
        "max_lsb_from_host",
        "share_within_1_lsb",
        "share_within_2_lsb",
        "share_identical",
        "parity_sqnr_db",
    ]
    artifact: str | None
    bound: Literal["at most", "at least"]
    limit: float
    measured: float | None
    passed: bool


class DeviceRow(DevicePart, frozen=True, kw_only=True):
    """One artifact on the device: INT8 against eager INT8 and the host, FP32 against the host.

    ``parity_sqnr_db`` and ``max_abs`` are an FP32 edge's; see `records.parity.FloatParity`.
    """

    artifact: str
    mode: Mode
    host_mode: Mode | None
    failure: str | None
    from_eager: LsbDifference | None
    from_host: LsbDifference | None
    parity_sqnr_db: float | None
    max_abs: float | None


class DeviceCheck(DevicePart, frozen=True, kw_only=True):
    """The check of a kit on a device; ``passed`` only when something ran and every gate passed."""

    schema: Literal["edgeveil.device-check/1"] = "edgeveil.device-check/1"
    bundle_id: Sha256
    split: str
    images: Annotated[int, Meta(ge=1)]
    preprocessing_identical: bool
    artifacts: tuple[DeviceRow, ...]
    gates: tuple[DeviceGate, ...]
    skipped: tuple[Skipped, ...]
    passed: bool


class DeviceTiming(DevicePart, frozen=True, kw_only=True):
    """When a run on a device was, its state around the measuring, and whether it may be believed.

    ``before``, ``after``: of the first and the last interleaved run, None without one.
    ``not_met``: the conditions that some run missed; ``resumed_bytes``: of the kit that an earlier,
    cut run had already brought there.
    """

    started_at: str
    seconds: float
    valid: bool
    not_met: tuple[Criterion, ...]
    before: MachineState | None
    after: MachineState | None
    resumed_bytes: Count
    sent_bytes: Count


class DeviceRecord(DevicePart, frozen=True, kw_only=True):
    """A run of ``edgeveil device run``: what the device is, what ran there, what it came to.

    ``destination``: as given. ``soc``: compatible names of its device tree. ``kit_sha256``: of the
    archive. ``passed``: of the check, None when it was not run.
    """

    schema: Literal["edgeveil.device/1"] = "edgeveil.device/1"
    destination: str
    bundle_id: Sha256
    kit_sha256: Sha256
    host: str
    machine: MachineRecord
    soc: tuple[str, ...]
    steps: tuple[Literal["check", "bench"], ...]
    passed: bool | None
    timing: DeviceTiming
