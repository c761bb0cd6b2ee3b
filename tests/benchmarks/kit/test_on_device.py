"""A kit on a device behind a real OpenSSH server: whole, cut in the middle, throttled, hostile."""

from __future__ import annotations

import math
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy.typing as npt
import pytest

from benchmarks.kit.build import BuiltKit
from benchmarks.kit.on_device import DeviceRun, remote_kit, run_on_device
from export.bundle import Bundle
from records.device import DeviceRecord
from records.errors import ArtifactError, RecordError
from records.progress import silent
from runtime_check.targets.ssh import ConnectionLostError, DeviceError, Ssh, parse_destination
from tests.benchmarks.kit.kits import quick_kit
from tests.loopback_ssh import Device, loopback
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Kit = tuple[Bundle, BuiltKit]


@pytest.fixture(scope="module")
def kit(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Kit:
    folder = tmp_path_factory.mktemp("kit")
    bundle, splits = tiny_bundle(folder, tiny_model, tiny_images)
    return bundle, quick_kit(bundle, splits, folder / "kit.tar.gz")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with loopback(tmp_path / "device") as found:
        yield found


def run(device: Device, kit: Kit, url: str | None = None, **options: object) -> DeviceRun:
    bundle, built = kit
    given = {"python": device.torch_free_python()} | options
    ssh = Ssh(parse_destination(url or device.url), device.config)
    return run_on_device(url or device.url, ssh, bundle, built, **given)  # type: ignore[arg-type]


def clean(device: Device, kit: Kit) -> None:
    remote_kit(Ssh(parse_destination(device.url), device.config), kit[1]).clean()


def test_check_and_bench_come_back_and_nothing_is_left(device: Device, kit: Kit) -> None:
    found = run(device, kit)
    assert found.check is not None
    assert found.check.passed, found.check.gates
    assert found.check.preprocessing_identical
    onnx = {a.name for a in kit[0].edges() if a.format == "onnx"}
    assert {row.artifact for row in found.check.artifacts} == onnx
    assert {skip.reason for skip in found.check.skipped} == {"torch is not installed here"}
    # The device is this machine: every output is the host's.
    for row in found.check.artifacts:
        if row.from_host is not None:
            assert row.from_host.max_lsb == 0
            assert row.from_host.values == 20 * math.prod(kit[0].manifest.wire.shape)
        else:
            assert (row.parity_sqnr_db, row.max_abs) == (None, 0.0)
    assert found.bench is not None
    assert {row.artifact for row in found.bench.latency} == onnx
    assert {one.int8 for one in found.bench.speedups} == onnx - {"edge_fp32_onnx"}
    assert all(row.timing.samples >= 30 for row in found.bench.latency)
    assert found.device.timing.sent_bytes == kit[1].file.size
    assert msgspec.json.decode(msgspec.json.encode(found.device), type=DeviceRecord) == found.device
    assert device.left() != []
    clean(device, kit)
    assert device.left() == []


def test_a_connection_cut_while_the_kit_is_sent(device: Device, kit: Kit) -> None:
    size = kit[1].file.size
    with pytest.raises(ConnectionLostError, match="run the same command again"):
        run(device, kit, device.cut_after(size * 3 // 4))
    assert not list(device.home.rglob("kit.tar.gz"))
    found = run(device, kit)
    timing = found.device.timing
    assert 0 < timing.resumed_bytes < size
    assert timing.resumed_bytes + timing.sent_bytes == size
    assert found.check is not None
    assert found.check.passed
    clean(device, kit)
    assert device.left() == []


def test_a_connection_cut_while_it_measures(device: Device, kit: Kit) -> None:
    killed: list[int] = []

    def cut() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not list(device.home.rglob("check.json")):
            time.sleep(0.01)
        killed.append(device.kill_sessions())

    watcher = threading.Thread(target=cut)
    watcher.start()
    with pytest.raises(ConnectionLostError):
        run(device, kit)
    watcher.join()
    assert killed[0] >= 1
    check = next(device.home.rglob("check.json"))
    before = check.stat().st_mtime_ns
    found = run(device, kit)
    assert found.device.timing.sent_bytes == 0
    assert check.stat().st_mtime_ns == before
    assert found.check is not None
    assert found.bench is not None
    assert found.check.passed


def test_what_an_earlier_run_left_may_be_damaged(device: Device, kit: Kit) -> None:
    remote = remote_kit(Ssh(parse_destination(device.url), device.config), kit[1])
    place = device.home / ".cache/edgeveil" / f"kit-{kit[1].file.sha256[:16]}"
    place.mkdir(parents=True)
    (place / "kit.partial").write_bytes(b"x" * 1000)
    assert remote.upload(kit[1].data, silent) == (0, kit[1].file.size)
    assert (place / "kit.tar.gz").read_bytes() == kit[1].data
    assert remote.upload(kit[1].data, silent) == (kit[1].file.size, 0)


@pytest.mark.parametrize(("word", "signs"), [("0x50000", 0), ("0x50005", 2)])
def test_a_throttled_run_is_invalid(device: Device, kit: Kit, word: str, signs: int) -> None:
    device.program("vcgencmd", f"echo throttled={word}")
    found = run(device, kit, steps=("bench",))
    assert found.bench is not None
    assert found.device.timing.before is not None
    assert found.device.timing.before.throttled_bits == int(word, 16)
    throttling = [
        one for one in found.bench.runs[0].timing.criteria if one.name == "throttling events"
    ]
    assert [(one.value, one.met) for one in throttling] == [(signs, signs == 0)]
    if signs:
        assert not found.device.timing.valid
        assert not found.bench.valid
        assert all(one.timing.verdict == "not given" for one in found.bench.speedups)


def test_a_device_without_the_packages_says_so(device: Device, kit: Kit) -> None:
    bare = device.program("bare", f'exec {shlex.quote(sys.executable)} -S "$@"')
    with pytest.raises(ArtifactError, match="No module named 'numpy'"):
        run(device, kit, python=str(bare))


HOSTILE = {
    "no JSON": ("echo broken", RecordError, "not a valid KitCheck"),
    "another kit": (
        'echo \'{"kit": "0"}\'',
        RecordError,
        "not a valid KitCheck",
    ),
    "too large": ("head -c 2000000 /dev/zero", DeviceError, "larger than|more than"),
    "nothing": ('rm "$file"', RecordError, "nothing came back"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_device_sends_is_not_trusted(device: Device, kit: Kit, kind: str) -> None:
    command, error, message = HOSTILE[kind]
    hostile = device.program(
        "hostile",
        f'file="$PWD/$(dirname "$1")/../../records/check.json"\nmkdir -p "$(dirname "$file")"\n'
        f': > "$file"\n{command} > "$file.new"\n[ -f "$file" ] && mv "$file.new" "$file"\nexit 0',
    )
    with pytest.raises(error, match=message):
        run(device, kit, steps=("check",), python=str(hostile))
