"""How much the network's answer depends on each channel of each activation.

The diagonal of the Fisher information, E[(∂ log p(y|x) / ∂a)²] with y drawn from the network's own
answer, averaged over a channel's positions: no labels are needed. To second order the loss grows
by half of it times the squared error of a (LeCun et al. 1990; Li et al. 2021, "BRECQ", eq. 10).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy

from export.observers import RangeObserver, observers_of

_MOST_IMAGES = 512
_BATCH = 64
#: A channel without any influence still counts a little, or its range would be left to chance.
_LEAST_SHARE = 1e-6


def weigh_channels(prepared: fx.GraphModule, server: nn.Module, images: Tensor) -> None:
    """Set the importance of every range observer from gradients of the whole network.

    Args:
        prepared: of ``prepare_fx`` with ``place_observers``; its observers record nothing here.
        server: boundary (N, …) float32 → logits (N, K).
        images: preprocessed calibration images, float32 (N, 3, S, S); the first 512 are used.
    """
    observers = observers_of(prepared)
    squares = {name: torch.zeros(()) for name in observers}
    generator = torch.Generator().manual_seed(0)
    with _tapped(observers), torch.enable_grad():
        for batch in torch.split(images[:_MOST_IMAGES], _BATCH):
            logits = server(prepared(batch.clone().requires_grad_())).flatten(1)
            answers = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
            loss = cross_entropy(logits, answers, reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            for name, observer in observers.items():
                squares[name] = squares[name] + _channel_mean(observer.tapped)
    for node in prepared.graph.nodes:
        name = str(node.target)
        if node.op == "call_module" and name in observers and not observers[name].shared:
            shares = [squares[name] for name in _readings(node, observers)]
            share = torch.stack(shares).sum(0)
            least = max(_LEAST_SHARE * float(share.max()), torch.finfo(torch.float32).tiny)
            observers[name].importance = share.clamp(min=least)


@contextlib.contextmanager
def _tapped(observers: dict[str, RangeObserver]) -> Iterator[None]:
    """Let observers keep what passes through them, with its gradient, instead of recording it."""
    for observer in observers.values():
        observer.tapping = True
    try:
        yield
    finally:
        for observer in observers.values():
            observer.tapping, observer.tapped = False, None


def _channel_mean(tapped: Tensor | None) -> Tensor:
    """Return the mean squared gradient of each channel, float32 (C,)."""
    if tapped is None or tapped.grad is None:
        return torch.zeros(())
    squared = tapped.grad.square().sum(0)
    return squared.mean(tuple(range(1, squared.dim()))) if squared.dim() > 1 else squared


def _readings(observed: fx.Node, observers: dict[str, RangeObserver]) -> list[str]:
    """Return the observers whose gradients weigh this one: its reader's outputs, or its own."""
    own = str(observed.target)
    if observers[own].reads_unchanged:
        return [own]
    behind = {
        str(node.target)
        for reader in observed.users
        for node in reader.users
        if node.op == "call_module" and str(node.target) in observers
    }
    # A hard-sigmoid's output has a fixed grid and no such observer; it is linear where it lives.
    return sorted(behind) or [own]
