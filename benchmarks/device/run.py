"""Check and measure this kit on this device: python3 run.py [check] [bench]."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
# ONNX Runtime from 1.29 on sends telemetry, and leaves a device id in the home folder, otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# pip's --target folder of the README, where there is one, and the kit's own modules first.
sys.path[:0] = [str(ROOT / "code"), *([str(ROOT / "site")] if (ROOT / "site").is_dir() else [])]

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - a device may have an older one
        sys.exit("run.py: this kit needs Python 3.11 or newer")
    from benchmarks.device.program import main

    sys.exit(main(ROOT))
