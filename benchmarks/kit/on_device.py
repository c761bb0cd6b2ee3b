"""``run_on_device``: a kit goes to a device, runs there, and its records come back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeVar

from benchmarks.kit.build import BuiltKit, contents_sha256
from benchmarks.kit.judge_bench import device_bench
from benchmarks.kit.judge_check import device_check
from benchmarks.kit.remote import RemoteKit
from export.bundle import Bundle
from records import codec
from records.bench import BenchRecord
from records.device import (
    DeviceCheck,
    DeviceRecord,
    DeviceTiming,
    KitBench,
    KitCheck,
    KitFacts,
)
from records.errors import RecordError
from records.progress import Progress, silent
from runtime_check.targets.ssh import Ssh
from runtime_check.targets.ssh_packages import PYTHON, install_packages

Step = Literal["check", "bench"]
STEPS: tuple[Step, ...] = ("check", "bench")
#: Of one answer: the check's figures are few; ten thousands of samples an artifact are not.
MAX_CHECK_BYTES = 1 << 20
MAX_BENCH_BYTES = codec.MAX_RECORD_BYTES

Facts = TypeVar("Facts", bound=KitFacts)


@dataclass(frozen=True)
class DeviceRun:
    """What a run on a device came to; ``samples``: the file of the raw samples."""

    device: DeviceRecord
    check: DeviceCheck | None
    bench: BenchRecord | None
    samples: bytes


def run_on_device(
    url: str,
    ssh: Ssh,
    bundle: Bundle,
    kit: BuiltKit,
    *,
    steps: Sequence[Step] = STEPS,
    python: str | None = None,
    samples_file: str = "bench-samples.json",
    progress: Progress = silent,
) -> DeviceRun:
    """Run a kit on a device; whatever an earlier, cut run completed there is not done again.

    The records stay on the device until `forget` or `clean`: the caller writes its own first.

    Args:
        url: of the device, as given.
        ssh: how to get there.
        bundle: the verified bundle of the kit.
        kit: made with `build_kit`.
        steps: what to run.
        python: a program there that has numpy and onnxruntime; None installs the pinned packages
            in our folder there for its python3.
        samples_file: name that the record gives to the file of raw samples.
        progress: told about everything.

    Raises:
        ConnectionLostError: no connection, or it broke off; run again to go on.
        DeviceError: a command failed there, or it sent too much.
        UnsupportedHereError: ssh is not here, or the device lacks what is needed.
        ArtifactError: the kit's program failed there.
        RecordError: what came back is not what the kit gives.
    """
    started, begin = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    remote = remote_kit(ssh, kit)
    there, sent = remote.upload(kit.data, progress)
    site = ""
    if python is None:
        progress("device: packages", 0, 1)
        site = install_packages(ssh, (one.format for one in bundle.manifest.artifacts))
        progress("device: packages", 1, 1)
    remote.run(steps, site=site, python=python or PYTHON, progress=progress)
    check = _fetch(remote, kit, "check.json", KitCheck) if "check" in steps else None
    benches = _benches(remote, kit) if "bench" in steps else ()
    facts = check if check is not None else next(iter(benches), None)
    if facts is None:
        raise RecordError(f"nothing came back from {ssh.destination.name}; run again")
    judged = None if check is None else device_check(bundle, kit, check)
    bench, samples = None, b""
    if benches:
        bench, samples = device_bench(bundle, kit.file.kit.bench, benches, samples_file)
    device = DeviceRecord(
        destination=url,
        bundle_id=bundle.manifest.bundle_id,
        kit_sha256=kit.file.sha256,
        host=facts.host,
        machine=facts.machine.record(),
        soc=facts.soc,
        steps=tuple(steps),
        passed=None if judged is None else judged.passed,
        timing=DeviceTiming(
            started_at=started,
            seconds=round(time.monotonic() - begin, 3),
            valid=bench is None or bench.valid,
            not_met=()
            if bench is None
            else tuple(c for run in bench.runs for c in run.timing.criteria if not c.met),
            before=benches[0].before.record() if benches else None,
            after=benches[-1].after.record() if benches else None,
            resumed_bytes=there,
            sent_bytes=sent,
        ),
    )
    return DeviceRun(device, judged, bench, samples)


def remote_kit(ssh: Ssh, kit: BuiltKit) -> RemoteKit:
    """Return a kit's place on a device, to be cleaned when its records are safe here."""
    return RemoteKit(ssh, kit.file.sha256, kit.folder)


def _benches(remote: RemoteKit, kit: BuiltKit) -> tuple[KitBench, ...]:
    found = []
    for threads in dict.fromkeys(kit.file.kit.bench.threads):
        one = _fetch(remote, kit, f"bench-{threads}.json", KitBench)
        if one is not None and one.threads != threads:
            raise RecordError(f"bench-{threads}.json of the device has {one.threads} threads")
        found.append(one)
    return tuple(one for one in found if one is not None)


def _fetch(remote: RemoteKit, kit: BuiltKit, name: str, kind: type[Facts]) -> Facts | None:
    largest = MAX_CHECK_BYTES if name == "check.json" else MAX_BENCH_BYTES
    data = remote.fetch(name, largest)
    if data is None:
        return None
    record = codec.decode(data, kind, f"{name} of the device")
    if record.kit != contents_sha256(kit.file.kit):
        raise RecordError(f"{name} of the device is of another kit; run with --clean and again")
    return record
