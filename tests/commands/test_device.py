"""``edgeveil device``, and ``bench`` on an ssh target: exit codes, records, what they refuse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
import numpy.typing as npt
import pytest

from commands import device as device_command
from records import codec
from records.bench import BenchRecord, SamplesRecord
from records.device import DeviceCheck, DeviceRecord
from records.hashing import sha256_file
from records.recipe import BenchRecipe
from runtime_check.targets.ssh import ssh_missing
from tests.commands.exit_codes import exit_code_of as exit_code
from tests.loopback_ssh import Device, loopback
from tests.runtime_check.tiny_bundle import resealed, tiny_bundle

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from export.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Bundle:
    folder = tmp_path_factory.mktemp("kit")
    made, _ = tiny_bundle(folder, tiny_model, tiny_images)
    recipe = msgspec.structs.replace(made.manifest.recipe, bench=BenchRecipe(threads=(1,)))
    shutil.copytree(made.folder, folder / "one-thread")
    return resealed(made, folder / "one-thread", recipe=recipe)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with loopback(tmp_path / "device") as found:
        yield found


def there(device: Device) -> tuple[object, ...]:
    return ("--python", device.torch_free_python(), "--ssh-config", device.config)


def test_a_check_on_a_device_leaves_records_here_and_nothing_there(
    bundle: Bundle,
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = ("device", "run", device.url, bundle.folder, "--out", out, "--only", "check")
    assert exit_code(monkeypatch, *command, "--limit", 8, *there(device)) == 0
    said = capsys.readouterr().out
    assert "8 victims on the device" in said
    assert "skipped edge_int8_lite: torch is not installed here" in said
    assert sorted(path.name for path in out.iterdir()) == ["check.json", "device.json"]
    assert codec.read(out / "check.json", DeviceCheck).passed
    assert codec.read(out / "device.json", DeviceRecord).steps == ("check",)
    # The kit stays for the next run, the records do not.
    assert not [name for name in device.left() if name.endswith("check.json")]
    assert device.left() != []
    assert exit_code(monkeypatch, *command, *there(device)) == 1
    assert "device.json already exists" in capsys.readouterr().err
    clean = ("device", "clean", device.url, "--ssh-config", device.config)
    assert exit_code(monkeypatch, *clean) == 0
    assert device.left() == []


@pytest.mark.slow
def test_a_throttled_device_is_invalid_and_exits_2(
    bundle: Bundle,
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device.program("vcgencmd", "echo throttled=0x50005")
    out = tmp_path / "out"
    command = ("device", "run", device.url, bundle.folder, "--out", out, "--clean")
    assert exit_code(monkeypatch, *command, "--only", "bench", *there(device)) == 2
    shown = capsys.readouterr()
    assert "throttling events" in shown.err
    assert "INVALID" in shown.out
    record = codec.read(out / "bench.json", BenchRecord)
    assert not record.valid
    assert record.timing.samples is not None
    assert record.timing.samples.sha256 == sha256_file(out / "bench-samples.json")
    assert codec.read(out / "bench-samples.json", SamplesRecord).bundle_id == record.bundle_id
    assert not codec.read(out / "device.json", DeviceRecord).timing.valid
    assert device.left() == []


@pytest.mark.slow
def test_bench_on_an_ssh_target_gives_latencies(
    bundle: Bundle,
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "bench-pi.json"
    command = ("bench", bundle.folder, "--target", device.url, "--out", out, *there(device))
    assert exit_code(monkeypatch, *command, "--threads", 1) == 0
    assert "Latency" in capsys.readouterr().out
    record = codec.read(out, BenchRecord)
    onnx = {edge.name for edge in bundle.edges() if edge.format == "onnx"}
    assert {row.artifact for row in record.latency} == onnx
    assert any("on a device" in note for note in record.notes)
    assert out.with_name("bench-pi-samples.json").exists()
    assert device.left() == []
    assert exit_code(monkeypatch, *command, "--runtime", "onnx", "--force") == 1
    assert "leave --runtime out" in capsys.readouterr().err


def test_without_ssh_it_exits_3(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run = ("device", "run", "ssh://pi", bundle.folder, "--out", tmp_path / "out")
    bench = ("bench", bundle.folder, "--target", "ssh://pi", "--out", tmp_path / "b.json")
    check = ("check", bundle.folder, "--target", "ssh://pi", "--out", tmp_path / "c.json")
    for command in (run, ("device", "clean", "ssh://pi"), bench, check):
        assert exit_code(monkeypatch, *command) == 3, command
        assert "apt-get install --yes --no-install-recommends openssh-client" in (
            capsys.readouterr().err
        )
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_cannot_be_reached_exits_1(
    bundle: Bundle,
    device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--ssh-config", device.config, "--out", tmp_path / "out", "--limit", 2)
    command = ("device", "run", "ssh://pi:1", bundle.folder, *options)
    assert exit_code(monkeypatch, *command) == 1
    assert "no connection to pi" in capsys.readouterr().err
    assert exit_code(monkeypatch, "device", "run", "pi@pi", bundle.folder, *options) == 1
    assert "is not ssh://[user@]host[:port]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(ssh_missing() is not None, reason="ssh is not here")
def test_no_kit_is_made_for_a_device_that_is_not_there(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*given: object, **options: object) -> NoReturn:
        pytest.fail("a kit was made before the device was reached")

    monkeypatch.setattr("benchmarks.kit.build.build_kit", fail)
    monkeypatch.setattr("benchmarks.kit.measure.build_kit", fail)
    (tmp_path / "config").write_text("Host pi\n  HostName 127.0.0.1\n  Port 1\n")
    there = ("--ssh-config", tmp_path / "config", "--out")
    run = ("device", "run", "ssh://pi", bundle.folder, *there, tmp_path / "out")
    bench = ("bench", bundle.folder, "--target", "ssh://pi", *there, tmp_path / "bench.json")
    for command in (run, bench):
        assert exit_code(monkeypatch, *command) == 1
        assert "no connection to pi" in capsys.readouterr().err


def test_every_subcommand_and_option_is_documented() -> None:
    for name, subcommand in device_command.command.commands.items():
        assert subcommand.help, name
        options = [p for p in subcommand.params if p.param_type_name == "option"]
        assert [p.name for p in options if not getattr(p, "help", None)] == []
