from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from baseline.checkpoint import POINTER_NAME, Checkpoints
from records.errors import RecipeError, RecordError
from records.training import EpochRecord
from tests.tiny_network import build

IDENTITY = "a" * 64


def _state() -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = build(4)
    model.to(memory_format=torch.channels_last)
    return model, AdamW(model.parameters(), lr=1e-2)


def _step(model: nn.Module, optimizer: Optimizer, seed: int) -> Tensor:
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    loss: Tensor = model(x.contiguous(memory_format=torch.channels_last)).square().sum()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _epochs(count: int) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(epoch=k, loss=1.0, learning_rate=0.1, seconds=0.5) for k in range(count)
    )


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = _state()
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    assert checkpoints.load(model, optimizer) == ()
    for seed in range(3):
        _step(model, optimizer, seed)
    checkpoints.save(model, optimizer, _epochs(2))
    expected = [_step(model, optimizer, seed) for seed in range(3, 8)]

    other, other_optimizer = _state()
    assert checkpoints.load(other, other_optimizer) == _epochs(2)
    found = [_step(other, other_optimizer, seed) for seed in range(3, 8)]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    own = other.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    # The moments kept the parameters' memory format, and with it the kernels that they take.
    kernel = other.get_parameter("head.0.weight")
    assert other_optimizer.state[kernel]["exp_avg"].stride() == kernel.stride()


def test_only_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    model, optimizer = _state()
    _step(model, optimizer, 0)
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    for count in (1, 2, 3):
        checkpoints.save(model, optimizer, _epochs(count))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-00003.safetensors", POINTER_NAME]
    assert checkpoints.usable()
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []
    assert not checkpoints.usable()


def test_another_recipes_checkpoint_is_refused(tmp_path: Path) -> None:
    model, optimizer = _state()
    _step(model, optimizer, 0)
    Checkpoints(tmp_path, IDENTITY).save(model, optimizer, _epochs(1))
    stranger = Checkpoints(tmp_path, "b" * 64)
    assert not stranger.usable()
    with pytest.raises(RecipeError, match="another recipe"):
        stranger.load(model, optimizer)


def test_a_kill_between_the_two_files_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    model, optimizer = _state()
    _step(model, optimizer, 0)
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(model, optimizer, _epochs(1))
    pointer = (tmp_path / POINTER_NAME).read_bytes()
    tensors = (tmp_path / "checkpoint-00001.safetensors").read_bytes()
    _step(model, optimizer, 1)
    checkpoints.save(model, optimizer, _epochs(2))
    (tmp_path / POINTER_NAME).write_bytes(pointer)
    (tmp_path / "checkpoint-00001.safetensors").write_bytes(tensors)
    assert checkpoints.load(*_state()) == _epochs(1)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "pointer"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    model, optimizer = _state()
    _step(model, optimizer, 0)
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(model, optimizer, _epochs(1))
    path = tmp_path / "checkpoint-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "flip":
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:1000])
    elif damage == "remove":
        path.unlink()
    else:
        (tmp_path / POINTER_NAME).write_text("{}")
    assert not checkpoints.usable()
    with pytest.raises(RecordError):
        checkpoints.load(model, optimizer)
