"""Checkpoints of an unfinished training: tensors in safetensors, the rest in JSON.

``checkpoint.json`` is replaced in one rename and names the tensors' file by its hash, so a kill
at any moment leaves either the old checkpoint or the new one, whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from records import codec, files
from records.errors import RecipeError, RecordError
from records.hashing import sha256_file
from records.training import CheckpointRecord, EpochRecord

POINTER_NAME = "checkpoint.json"
_TENSORS = "checkpoint-*.safetensors"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training in its folder.

    Attributes:
        folder: where ``checkpoint.json`` stands.
        identity: SHA-256 of everything that decides the training's result.
    """

    folder: Path
    identity: str

    def save(self, model: nn.Module, optimizer: Optimizer, epochs: tuple[EpochRecord, ...]) -> None:
        """Write the state after an epoch, then remove the state before it.

        Args:
            model: the network in training.
            optimizer: its optimizer, which has made at least one step.
            epochs: the epochs done so far, at least one.
        """
        name = f"checkpoint-{len(epochs):05d}.safetensors"
        tensors = _stored({f"model.{k}": v for k, v in model.state_dict().items()})
        tensors |= _stored(_optimizer_tensors(optimizer))
        path = self.folder / name
        files.write_file(path, lambda partial: save_file(tensors, partial), replace=True)
        record = CheckpointRecord(
            identity=self.identity, file=name, sha256=sha256_file(path), epochs=epochs
        )
        codec.write(self.folder / POINTER_NAME, record, replace=True)
        for old in self.folder.glob(_TENSORS):
            if old.name != name:
                old.unlink()

    def load(self, model: nn.Module, optimizer: Optimizer) -> tuple[EpochRecord, ...]:
        """Bring a network and its optimizer to the last checkpoint, where there is one.

        Args:
            model: of the same architecture; filled in place.
            optimizer: fresh, over the same parameters in the same order; filled in place.

        Returns:
            The epochs done, empty without a checkpoint.

        Raises:
            RecipeError: the checkpoint belongs to another recipe or other data.
            RecordError: the checkpoint is damaged.
        """
        pointer = self.folder / POINTER_NAME
        if not pointer.exists():
            return ()
        record = codec.read(pointer, CheckpointRecord)
        if record.identity != self.identity:
            raise RecipeError(
                f"{pointer} belongs to a training with another recipe or other data; remove it or "
                "choose another folder"
            )
        try:
            self._fill(record, model, optimizer)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise RecordError(f"checkpoint {self.folder / record.file}: {error}") from error
        return record.epochs

    def usable(self) -> bool:
        """Say whether there is a checkpoint of this very training, whole."""
        try:
            record = codec.read(self.folder / POINTER_NAME, CheckpointRecord)
        except RecordError:
            return False
        path = self.folder / record.file
        whole = path.is_file() and sha256_file(path) == record.sha256
        return whole and record.identity == self.identity

    def clear(self) -> None:
        """Remove every checkpoint; the pointer goes first."""
        (self.folder / POINTER_NAME).unlink(missing_ok=True)
        for path in self.folder.glob(_TENSORS):
            path.unlink()

    def _fill(self, record: CheckpointRecord, model: nn.Module, optimizer: Optimizer) -> None:
        path = self.folder / record.file
        if sha256_file(path) != record.sha256:
            raise RecordError(f"{path} does not have the hash that {POINTER_NAME} names; remove it")
        tensors = load_file(path)
        model.load_state_dict({k: tensors[f"model.{k}"] for k in model.state_dict()})
        _fill_optimizer(optimizer, tensors)


def _stored(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    state: dict[int, dict[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{key}": state[i][key] for i in state for key in state[i]}


def _fill_optimizer(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        owner, _, rest = name.partition(".")
        if owner == "optimizer":
            index, _, key = rest.partition(".")
            # The parameter's memory format: another one may take a kernel that rounds otherwise.
            like = parameters[int(index)]
            same = value.shape == like.shape
            filled = torch.empty_like(like).detach().copy_(value) if same else value
            state.setdefault(int(index), {})[key] = filled
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
