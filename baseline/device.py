"""Which processor torch trains on."""

from __future__ import annotations

import torch

from records.errors import UnsupportedHereError


def choose_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        UnsupportedHereError: the named device is not here.
    """
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, available in here.items() if available))
    if not here.get(name, False):
        raise UnsupportedHereError(f"device {name} is not available here; use --device auto or cpu")
    return torch.device(name)
