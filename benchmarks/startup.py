"""Load time, first inference and peak memory of each artifact, in a fresh process of its own.

A process that has loaded another artifact before has warm allocators and a raised peak.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec

from benchmarks.size import runtime_name
from export.bundle import Bundle
from records.bench import Startup, StartupTiming
from records.manifest import Artifact

#: Importing torch from a slow memory card takes most of this.
TIMEOUT_SECONDS = 180


def measure_startup(
    bundle: Bundle, artifact: Artifact, *, threads: int, batch_size: int
) -> Startup:
    """Measure one artifact once, in a fresh Python process.

    Args:
        bundle: a verified bundle; the process verifies it again.
        artifact: one of its shipped artifacts.
        threads: threads inside an operator.
        batch_size: images in a batch.

    Returns:
        The figures, or ``failure`` with what the process said last.
    """
    command = [sys.executable, "-P", "-m", "benchmarks.startup_probe", str(bundle.folder)]
    command += [artifact.name, str(threads), str(batch_size)]
    timing, failure = _ask(command)
    return Startup(
        artifact=artifact.name,
        runtime=runtime_name(artifact),
        threads=threads,
        batch_size=batch_size,
        timing=timing,
        failure=failure,
    )


def _ask(command: list[str]) -> tuple[StartupTiming | None, str | None]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {TIMEOUT_SECONDS} s"
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return None, last
    try:
        return msgspec.json.decode(done.stdout, type=StartupTiming), None
    except msgspec.DecodeError as error:
        return None, f"the process's answer is not what was asked for: {error}"
