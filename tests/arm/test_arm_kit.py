"""The Raspberry Pi kit, whole: a real OpenSSH server whose Python is an emulated ARM one."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy.typing as npt
import pytest

from benchmarks.machine_state import machine_state
from records import codec
from records.bench import BenchRecord
from records.device import DeviceCheck, DeviceRecord
from records.parity import CheckRecord
from records.recipe import BenchRecipe
from runtime_check.targets import parts
from runtime_check.targets.cpus import CPUS
from runtime_check.targets.emulated import Guest
from runtime_check.targets.emulator import find_emulator
from tests.arm.arm_targets import prepared
from tests.commands.exit_codes import exit_code_of
from tests.loopback_ssh import Device, loopback
from tests.runtime_check.tiny_bundle import resealed, tiny_bundle, with_varied_classes

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from export.bundle import Bundle

pytestmark = [pytest.mark.arm, pytest.mark.slow]

CPU = "cortex-a76"
FORMATS = ("ptl", "onnx", "ort", *(["tflite"] if find_spec("ai_edge_litert") else []))


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    folder = tmp_path_factory.mktemp("arm-kit")
    model = with_varied_classes(tiny_model, tiny_images)
    made, _ = tiny_bundle(folder, model, tiny_images, formats=FORMATS)
    recipe = msgspec.structs.replace(made.manifest.recipe, bench=BenchRecipe(threads=(1,)))
    shutil.copytree(made.folder, folder / "one-thread")
    return resealed(made, folder / "one-thread", recipe=recipe)


@pytest.fixture
def pi(tmp_path: Path) -> Iterator[Device]:
    """Yield a device whose ``arm-python`` is an emulated aarch64 Python without torch."""
    root, emulator = prepared(CPU), find_emulator()
    assert emulator is not None
    guest = Guest(CPUS[CPU], root, emulator)
    python = shlex.join(guest.command()[:-1])
    sites = [part.folder(root) / "site" for part in (parts.wheels_part(), parts.litert_part())]
    path = shlex.quote(":".join(map(str, sites)))
    with loopback(tmp_path / "device") as device:
        device.program("arm-python", f'PYTHONPATH={path} exec {python} "$@"')
        yield device


def exit_code(monkeypatch: pytest.MonkeyPatch, device: Device, *arguments: object) -> int:
    options = ("--python", "arm-python", "--ssh-config", device.config)
    return exit_code_of(monkeypatch, *arguments, *options)


def test_the_kit_end_to_end_over_a_connection_that_is_cut(
    pi: Device,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, arguments = tmp_path / "records", (bundle.folder, "--out", tmp_path / "records", "--clean")
    assert exit_code(monkeypatch, pi, "device", "run", pi.cut_after(60_000), *arguments) == 1
    assert "run the same command again to go on" in capsys.readouterr().err
    assert not out.exists()
    # The emulator's times are nobody's: the run is INVALID, and everything else passes.
    assert exit_code(monkeypatch, pi, "device", "run", pi.url, *arguments) == 2
    said = capsys.readouterr().err
    assert "bench is INVALID" in said
    assert "emulated" in said
    assert "check:" not in said
    assert pi.left() == []
    device = codec.read(out / "device.json", DeviceRecord)
    assert device.timing.resumed_bytes > 0
    assert (device.machine.arch, device.machine.cpu_model) == ("aarch64", "Cortex-A76")
    assert device.machine.emulated is not None
    assert device.timing.after is not None
    assert set(device.timing.after.temperatures_c) == set(machine_state().temperatures_c)
    check = codec.read(out / "check.json", DeviceCheck)
    assert check.passed
    assert check.preprocessing_identical
    running = {edge.name for edge in bundle.edges() if edge.format != "torchscript-lite"}
    assert {row.artifact for row in check.artifacts} == running
    assert {skip.reason for skip in check.skipped} == {"torch is not installed here"}
    bench = codec.read(out / "bench.json", BenchRecord)
    assert {row.artifact for row in bench.latency} == running
    assert not bench.valid
    assert all(one.timing.ratio is None for one in bench.speedups)


def test_check_on_an_ssh_target(
    pi: Device, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "check.json"
    arguments = ("check", bundle.folder, "--target", pi.url, "--out", out, "--limit", 20)
    assert exit_code(monkeypatch, pi, *arguments) == 0
    record = codec.read(out, CheckRecord)
    assert record.target is not None
    assert (record.target.kind, record.target.machine) == ("device", "aarch64")
    assert {one.artifact for one in record.skipped} == {
        edge.name for edge in bundle.edges() if edge.format == "torchscript-lite"
    }
    assert {row.host_mode for row in record.host} >= {"optimizations-off"}
    assert pi.left() == []
