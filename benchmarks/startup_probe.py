"""Run in a fresh process by ``benchmarks.startup``: one artifact's start-up time and memory.

``python -P -m benchmarks.startup_probe BUNDLE ARTIFACT THREADS BATCH_SIZE`` prints one JSON line.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from export.bundle import Bundle, load_bundle
from records.bench import StartupTiming
from records.errors import EdgeveilError
from records.manifest import Artifact
from records.parity import Mode
from runtime_check.machine import needs_precise_mode
from runtime_check.runtime import LoadedArtifact

#: Runs after the first one, so that buffers that grow late are counted too.
LATER_RUNS = 10

_LIBRARIES = {
    "onnx": "runtime_check.ort",
    "ort": "runtime_check.ort",
    "torchscript-lite": "runtime_check.lite",
    "executorch": "runtime_check.executorch",
    "litert": "runtime_check.litert",
}


def probe_startup(
    bundle: Bundle, artifact: Artifact, *, threads: int, batch_size: int
) -> StartupTiming:
    """Measure loading, the first inference and peak memory of one artifact in this process.

    The runtime is imported before anything is measured. The artifact's bytes are already in
    memory when its loading is timed: a device's disk is no property of an artifact.

    Args:
        bundle: a verified bundle.
        artifact: one of its shipped artifacts.
        threads: threads inside an operator.
        batch_size: images in a batch.

    Raises:
        ArtifactError: the artifact does not load or run.
    """
    importlib.import_module(_LIBRARIES[artifact.format])
    data = bundle.read(artifact)
    batch = np.zeros((batch_size, *artifact.input.shape), dtype=np.float32)
    reset = _reset_peak()
    baseline = peak_bytes()
    begin = time.perf_counter_ns()
    loaded = _opener(artifact)(data, artifact, threads)
    opened = time.perf_counter_ns()
    loaded.run(batch)
    first = time.perf_counter_ns()
    for _ in range(LATER_RUNS):
        loaded.run(batch)
    peak = peak_bytes()
    return StartupTiming(
        load_ms=(opened - begin) / 1e6,
        first_inference_ms=(first - opened) / 1e6,
        baseline_bytes=baseline,
        peak_bytes=peak,
        added_bytes=max(0, peak - baseline),
        baseline_reset=reset,
    )


def peak_bytes() -> int:
    """Return this process's peak resident set in bytes: VmHWM, else ``ru_maxrss``."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak() -> bool:
    # proc(5): writing 5 to clear_refs resets VmHWM to the current resident set.
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _opener(artifact: Artifact) -> Callable[[bytes, Artifact, int], LoadedArtifact]:
    # Not Runtime.load: that runs a batch to check the output, and the first run is timed here.
    return _OPENERS[artifact.format]


def _open_onnx(data: bytes, artifact: Artifact, threads: int) -> LoadedArtifact:
    from runtime_check.ort import load_session

    quantized = artifact.format == "onnx" and artifact.precision == "int8"
    precise = quantized and needs_precise_mode()
    mode: Mode = "precise" if precise else "default"
    return load_session(data, artifact, mode=mode, threads=threads)


def _open_lite(data: bytes, artifact: Artifact, threads: int) -> LoadedArtifact:
    import torch
    from torch.jit.mobile import _load_for_lite_interpreter

    from runtime_check.lite import LoadedLite
    from runtime_check.torch_scope import torch_scope

    torch.set_num_threads(threads)
    with torch_scope(threads):
        module = _load_for_lite_interpreter(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return LoadedLite(module, artifact, threads)


def _open_executorch(data: bytes, artifact: Artifact, threads: int) -> LoadedArtifact:
    from runtime_check.executorch import load_executorch

    return load_executorch(data, artifact, threads=threads)


def _open_litert(data: bytes, artifact: Artifact, threads: int) -> LoadedArtifact:
    from runtime_check.litert import load_litert

    return load_litert(data, artifact, threads=threads)


_OPENERS: dict[str, Callable[[bytes, Artifact, int], LoadedArtifact]] = {
    "onnx": _open_onnx,
    "ort": _open_onnx,
    "torchscript-lite": _open_lite,
    "executorch": _open_executorch,
    "litert": _open_litert,
}


def main(arguments: list[str]) -> int:
    """Probe the artifact named on the command line; print JSON, or the error on stderr."""
    folder, name, threads, batch_size = arguments
    try:
        bundle = load_bundle(Path(folder))
        timing = probe_startup(
            bundle, bundle.artifact(name), threads=int(threads), batch_size=int(batch_size)
        )
    except (EdgeveilError, ModuleNotFoundError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(timing).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
