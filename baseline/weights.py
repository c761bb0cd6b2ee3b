"""Weights to and from files: safetensors, or a torch checkpoint that is never unpickled freely."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from records import files
from records.errors import ModelError

#: Keys under which training scripts put the state dict inside a checkpoint.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_NAMED = 3


def save_weights(model: torch.nn.Module, path: Path, *, replace: bool = False) -> None:
    """Write a network's state dict as safetensors, by atomic rename.

    The same weights give the same bytes whatever device or memory format they were in.

    Args:
        model: any network.
        path: the file to write.
        replace: allow an existing file to be replaced.

    Raises:
        OverwriteError: the file exists and ``replace`` is false.
    """
    # Copies, since safetensors refuses tensors that share memory.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    files.write_file(path, lambda partial: save_file(tensors, partial), replace=replace)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from safetensors (by that suffix) or a torch checkpoint.

    Args:
        path: ``*.safetensors``, or what ``torch.save`` wrote: loaded with ``weights_only``. A
            state dict under ``state_dict``, ``model`` or ``model_state_dict`` is unwrapped, and
            DataParallel's prefix ``module.`` removed.

    Returns:
        CPU tensors by name, with the shapes and dtypes of the file.

    Raises:
        ModelError: missing, damaged, not a mapping of tensors, or a value that is not finite.
    """
    if not path.is_file():
        raise ModelError(f"weights {path} do not exist; use scratch, imagenet or a file")
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    weights = _unwrap(loaded, path)
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: tensor {name} holds NaN or infinity")
    return weights


def fit_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str, into: str
) -> None:
    """Load a state dict whole; every name and shape must match.

    Args:
        model: the network to fill.
        weights: tensors by name.
        source: where they came from, for the error.
        into: what the network is, for the error.

    Raises:
        ModelError: a name is missing or unknown, or a shape differs.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    differing = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if missing or unknown or differing:
        parts = [
            _named("missing", missing),
            _named("unknown", unknown),
            _named("of another shape", differing),
        ]
        raise ModelError(f"{source} does not fit {into}: {'; '.join(p for p in parts if p)}")
    model.load_state_dict(dict(weights))


def _named(what: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return f"{len(names)} {what} ({shown})"


def _load_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}") from error


def _load_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # On damaged bytes the restricted unpickler raises whatever its stack machine meets.
    # Its message is left out: it advises to load without the restriction.
    except Exception as error:
        raise ModelError(
            f"{path} is not a checkpoint of plain tensors ({type(error).__name__}); save the state "
            "dict, best as .safetensors"
        ) from error


def _unwrap(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    if isinstance(loaded, Mapping):
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), loaded)
        if inner and all(isinstance(value, torch.Tensor) for value in inner.values()):
            prefixed = all(str(name).startswith("module.") for name in inner)
            start = len("module.") if prefixed else 0
            return {str(name)[start:]: value for name, value in inner.items()}
    raise ModelError(f"{path} holds no state dict: a mapping of names to tensors is expected")
