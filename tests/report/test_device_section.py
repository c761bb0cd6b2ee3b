"""Records of devices in the report: what the device is, whether it was sound, what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from records import codec
from records.bench import Criterion, Skipped
from records.device import (
    DeviceCheck,
    DeviceGate,
    DeviceRecord,
    DeviceRow,
    DeviceTiming,
)
from records.errors import RecordError
from records.machine import MachineState
from report.device_section import throttling
from report.document import Block, Paragraph, Table
from report.load import load_run
from report.page import build_document
from report.steps import commands
from tests.report.sample_run import (
    Sample,
    bench_record,
    check_record,
    digest,
    machine_record,
    write_sample_run,
)

SPLIT = "features.3"
HOSTILE = "<script>alert(1)</script>"


def state(temperature: float, bits: int | None) -> MachineState:
    return MachineState(
        load_average=(0.1, 0.1, 0.1),
        temperatures_c={"cpu-thermal": temperature},
        frequencies_mhz=(2400.0,),
        throttled_bits=bits,
        throttle_count=None,
    )


def device_record(*, valid: bool = True, bundle: str = SPLIT, **changes: Any) -> DeviceRecord:
    hot = Criterion(
        name="temperature in °C", value=84.0, limit=80.0, met=False, where="cpu-thermal"
    )
    machine = replace(
        machine_record(),
        board="Raspberry Pi 5 Model B Rev 1.0",
        arch="aarch64",
        governors=("ondemand",),
    )
    record = DeviceRecord(
        destination="ssh://pi@raspberrypi",
        bundle_id=digest(bundle),
        kit_sha256=digest("kit"),
        host="raspberrypi",
        machine=machine,
        soc=("raspberrypi,5-model-b", "brcm,bcm2712"),
        steps=("check", "bench"),
        passed=True,
        timing=DeviceTiming(
            started_at="2025-01-01T00:00:00Z",
            seconds=61.0,
            valid=valid,
            not_met=() if valid else (hot,),
            before=state(47.2, 0),
            after=state(61.0 if valid else 84.0, 0 if valid else 0x40004),
            resumed_bytes=0,
            sent_bytes=1000,
        ),
    )
    return replace(record, **changes)


def device_check(*, passed: bool = True) -> DeviceCheck:
    lsb = next(row.lsb for row in check_record(SPLIT, Sample()).artifacts if row.lsb is not None)
    rows = (
        DeviceRow(
            artifact="edge_fp32_onnx",
            mode="default",
            host_mode="default",
            failure=None,
            from_eager=None,
            from_host=None,
            parity_sqnr_db=120.4,
            max_abs=1e-6,
        ),
        DeviceRow(
            artifact="edge_int8_onnx",
            mode="default",
            host_mode="precise",
            failure=None,
            from_eager=lsb,
            from_host=lsb,
            parity_sqnr_db=None,
            max_abs=None,
        ),
        DeviceRow(
            artifact="edge_int8_wire_onnx",
            mode="default",
            host_mode="precise",
            failure=f"Fail: {HOSTILE}",
            from_eager=None,
            from_host=None,
            parity_sqnr_db=None,
            max_abs=None,
        ),
    )
    gate = DeviceGate(
        name="share_within_1_lsb",
        artifact="edge_int8_onnx",
        bound="at least",
        limit=0.99,
        measured=0.9996 if passed else 0.875,
        passed=passed,
    )
    return DeviceCheck(
        bundle_id=digest(SPLIT),
        split=SPLIT,
        images=64,
        preprocessing_identical=True,
        artifacts=rows,
        gates=(gate,),
        skipped=(Skipped(artifact="edge_int8_pte", threads=None, reason="no runner for it"),),
        passed=passed,
    )


def write_device(folder: Path, device: DeviceRecord, *, passed: bool = True) -> None:
    valid = device.timing.valid
    codec.write(folder / "device.json", device)
    if "check" in device.steps:
        codec.write(folder / "check.json", device_check(passed=passed))
    if "bench" in device.steps:
        codec.write(folder / "bench.json", bench_record(SPLIT, Sample(valid_bench=valid)))


def texts(blocks: tuple[Block, ...]) -> str:
    said = []
    for block in blocks:
        if isinstance(block, Table):
            said += [block.caption, *(cell.text for row in block.rows for cell in row)]
        elif isinstance(block, Paragraph):
            said.append(block.text)
    return "\n".join(said)


def section_of(run: Path) -> str:
    document = build_document(load_run(run), {})
    return next(texts(s.blocks) for s in document.sections if s.anchor == "devices")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "run", Sample(leave_out=frozenset({"attack", "bench"})))


def test_a_sound_run_shows_what_the_device_is_and_what_came_out(run: Path) -> None:
    write_device(run / SPLIT / "pi", device_record())
    said = section_of(run)
    for shown in (
        "Raspberry Pi 5 Model B Rev 1.0",
        "raspberrypi,5-model-b, brcm,bcm2712",
        "ondemand",
        "cpu-thermal 47.2 °C → 61.0 °C",
        "none → none",
        "The only gate passed there.",
        "120.4 dB",
        f"did not run: Fail: {HOSTILE}",
        "Skipped: edge_int8_pte (no runner for it); 4 threads (only 2 cores are usable).",
        "Speed-up: median(FP32)",
        "Every interleaved run met the conditions",
        "edge_int8_wire_lite",
    ):
        assert shown.replace(" ", "") in said.replace("\u00a0", "").replace(" ", ""), shown
    assert "INVALID" not in said


def test_a_throttled_run_is_marked_invalid(run: Path) -> None:
    write_device(run / SPLIT / "pi", device_record(valid=False), passed=False)
    said = section_of(run)
    assert "INVALID with 1 thread, 2 threads" in said
    assert "Speed-up" not in said
    assert "none → now: throttled; since boot: throttled" in said
    assert "1 of 1 gates failed there: share_within_1_lsb of edge_int8_onnx 0.875" in said


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0, "none"),
        (0x1, "now: under-voltage"),
        (0x50005, "now: under-voltage, throttled; since boot: under-voltage, throttled"),
        (0x80000, "since boot: soft temperature limit"),
        (None, "not told there"),
    ],
)
def test_the_firmwares_word_is_read(bits: int | None, said: str) -> None:
    assert throttling(state(50.0, bits)) == said


def test_one_step_alone(run: Path) -> None:
    write_device(run / SPLIT / "pi", device_record(steps=("bench",), passed=None))
    assert "The check was not run there." in section_of(run)
    command = "edgeveil device run ssh://pi@raspberrypi again/features.3/bundle"
    found = [c for c in commands(load_run(run)) if c.startswith(command)]
    assert found == [f"{command} --out again/features.3/pi --only bench"]


def test_a_folder_beside_the_splits_belongs_to_its_bundle(run: Path) -> None:
    write_device(run / "pi", device_record())
    (split,) = load_run(run).splits
    assert [device.name for device in split.devices] == ["pi"]


def test_without_devices_there_is_no_section(run: Path) -> None:
    assert "devices" not in [s.anchor for s in build_document(load_run(run), {}).sections]


@pytest.mark.parametrize("place", ["pi", f"{SPLIT}/pi"])
def test_records_of_another_bundle_are_refused(run: Path, place: str) -> None:
    codec.write(run / place / "device.json", device_record(bundle="another", steps=()))
    with pytest.raises(RecordError, match="bundle"):
        load_run(run)


def test_a_mixture_in_one_folder_is_refused(run: Path) -> None:
    write_device(run / SPLIT / "pi", device_record())
    other = replace(device_check(), bundle_id=digest("another"))
    codec.write(run / SPLIT / "pi" / "check.json", other, replace=True)
    with pytest.raises(RecordError, match="different bundles"):
        load_run(run)
