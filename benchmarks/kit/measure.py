"""``bench`` on a device: a kit without images goes there, measures, and is removed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kit.build import build_kit
from benchmarks.kit.on_device import remote_kit, run_on_device
from export.bundle import Bundle
from records.bench import BenchRecord
from records.errors import RecordError
from records.progress import Progress, silent
from records.recipe import BenchRecipe
from runtime_check.targets.ssh import Ssh


@dataclass(frozen=True)
class Measurement:
    """The record of a device's measurements, and the file of their raw samples."""

    record: BenchRecord
    samples: bytes


def measure_on_device(
    url: str,
    ssh: Ssh,
    bundle: Bundle,
    recipe: BenchRecipe,
    *,
    python: str | None = None,
    samples_file: str = "bench-samples.json",
    progress: Progress = silent,
) -> Measurement:
    """Measure a bundle on a device; needs no torch here. The pinned packages stay there.

    Args:
        url: of the device, as given.
        ssh: how to get there.
        bundle: a verified bundle.
        recipe: of the measuring.
        python: see `run_on_device`.
        samples_file: name that the record gives to the file of raw samples.
        progress: told about everything.

    Raises:
        EdgeveilError: see `run_on_device`.
        RecordError: nothing was measured there.
    """
    ssh.reach()
    with tempfile.TemporaryDirectory() as work:
        kit = build_kit(bundle, None, Path(work) / "kit.tar.gz", recipe=recipe)
    found = run_on_device(
        url,
        ssh,
        bundle,
        kit,
        steps=("bench",),
        python=python,
        samples_file=samples_file,
        progress=progress,
    )
    if found.bench is None:
        raise RecordError(f"{ssh.destination.name} sent no measurement; run again")
    remote_kit(ssh, kit).remove()
    return Measurement(found.bench, found.samples)
