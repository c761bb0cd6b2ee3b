"""The README of a kit: three commands."""

from __future__ import annotations

from pathlib import PurePosixPath

from records.counted import counted
from records.kit import KitRecord

_TEXT = """# edgeveil kit: {split}

Bundle {bundle_id}.
For aarch64 Linux (a Raspberry Pi 4 or 5 with a 64-bit system) and Python 3.11 to 3.14, without
torch. Three commands:

{commands}
The last one verifies every file, {check}measures latencies (FP32 and INT8
interleaved, with warm-up), writes its records into `records/` and prints what it found. It exits
0 when all is well, 2 when a limit was not met or a measurement is INVALID (throttled, hot,
disturbed), 1 on an error. `python3 run.py check` or `bench` runs one of the two; `--resume`
finishes a run that was cut. Nothing is written outside this folder. {note}
{skipped}"""

_SKIPPED = """
Skipped by name, in the records too: {names}. A kit has no runner for .pte files, which need
ExecuTorch's C++ runtime, and .ptl files need torch, which these commands do not install.
"""


def device_commands(folder: str) -> tuple[str, ...]:
    """Return the three commands that unpack a kit on a device, install its packages and run it."""
    return (
        f"tar xzf {folder}.tar.gz && cd {folder}",
        "python3 -m pip install --target site --require-hashes -r requirements-aarch64.txt",
        "python3 run.py",
    )


def readme(kit: KitRecord, folder: str) -> bytes:
    """Return the README of a kit.

    Args:
        kit: what it holds.
        folder: the one folder of its archive.
    """
    check, note = "", "This kit carries no images: it can be measured only."
    if kit.sample is not None:
        check = (
            f"runs {counted(kit.sample.count, 'victim')} through each .onnx, .ort and .tflite and\n"
            "holds the outputs "
            "against those of eager INT8 and of the host that made the kit, "
        )
        images = counted(kit.sample.count, "image")
        note = f"The kit carries {images} of {kit.sample.source.split(':')[0]}."
    text = _TEXT.format(
        split=kit.split,
        bundle_id=kit.bundle_id,
        commands="".join(f"    {line}\n" for line in device_commands(folder)),
        check=check,
        note=note,
        skipped=_skipped(kit),
    )
    return text.encode()


def _skipped(kit: KitRecord) -> str:
    names = [PurePosixPath(file).name for file in kit.files]
    left_out = sorted(name for name in names if name.endswith((".pte", ".ptl")))
    return _SKIPPED.format(names=", ".join(left_out)) if left_out else ""
