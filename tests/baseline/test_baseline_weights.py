from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from baseline.weights import fit_weights, read_weights, save_weights
from records.errors import ModelError, OverwriteError


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    model = _network()
    save_weights(model, tmp_path / "m.safetensors")
    assert _same(read_weights(tmp_path / "m.safetensors"), model.state_dict())


def test_the_memory_format_does_not_change_the_bytes(tmp_path: Path) -> None:
    model = _network()
    save_weights(model, tmp_path / "a.safetensors")
    model.to(memory_format=torch.channels_last)
    save_weights(model, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(model, tmp_path / "m.safetensors")
    assert _same(read_weights(tmp_path / "m.safetensors"), model.state_dict())


def test_an_existing_file_is_kept_unless_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(_network(), path)
    with pytest.raises(OverwriteError):
        save_weights(_network(), path)
    save_weights(_network(), path, replace=True)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = _network().state_dict()
    stored = {prefix + k: v for k, v in state.items()}
    torch.save(stored if wrapper is None else {wrapper: stored, "epoch": 3}, tmp_path / "m.pt")
    assert _same(read_weights(tmp_path / "m.pt"), dict(state))


class _Bomb:
    """Unpickling this would make a file: it must never be unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_pickle_is_not_executed(tmp_path: Path, legacy: bool, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    bomb = {"weight": _Bomb(tmp_path / "exploded")}
    torch.save(bomb, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"m\.") as raised:
        read_weights(path)
    # torch's own message advises to load without the restriction.
    assert "weights_only" not in str(raised.value)
    assert not (tmp_path / "exploded").exists()
    # Positive control: the file does explode where it is unpickled freely.
    if suffix == "pt":
        torch.load(path, weights_only=False)
        assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model = _network()
    with torch.no_grad():
        model.get_parameter("3.weight")[0, 0] = value
    save_weights(model, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match=r"3\.weight holds NaN or infinity"):
        read_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"a": 1}, {"state_dict": {}}, torch.zeros(3)], ids=str
)
def test_what_holds_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="no state dict"):
        read_weights(tmp_path / "m.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_damaged_or_missing_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    with pytest.raises(ModelError, match="do not exist"):
        read_weights(path)
    if suffix == "pt":
        torch.save(dict(_network().state_dict()), path)
    else:
        save_weights(_network(), path)
    data = path.read_bytes()
    for keep in (0, 5, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(ModelError):
            read_weights(path)


def test_a_misfit_is_one_sentence_that_names_the_tensors() -> None:
    model = _network()
    weights = dict(model.state_dict())
    weights["3.weight"] = torch.zeros(5, 4)
    weights["extra"] = weights.pop("0.bias")
    with pytest.raises(ModelError) as raised:
        fit_weights(model, weights, "m.pt", "tiny with 2 classes")
    assert str(raised.value) == (
        "m.pt does not fit tiny with 2 classes: 1 missing (0.bias); 1 unknown (extra); "
        "1 of another shape (3.weight (5, 4) instead of (2, 4))"
    )
