"""Ranges by the loss of the whole network: the culprits first, one end at a time.

An observer sees one tensor. What its rounding and clipping cost shows only at the network's
answer, and a quadratic model of it fails where the errors are large: so the ranges of the most
harmful tensors are tried against the loss itself (after Nahshan et al. 2021, "Loss aware
post-training quantization", by coordinate descent).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import kl_div

from export.observers import RangeObserver, observers_of, passing
from records.progress import Progress, silent

_MOST_IMAGES = 384
_BATCH = 128
_ROUNDS = 1
#: What an end is multiplied by; the last lets a range that was cut too short grow again.
_FACTORS = (0.4, 0.55, 0.7, 0.85, 1.2)


class _Loss:
    """Kullback-Leibler divergence of the answers from those of FP32, in nats an image."""

    def __init__(self, prepared: fx.GraphModule, server: nn.Module, images: Tensor) -> None:
        self._prepared, self._server = prepared, server
        self._batches = torch.split(images[:_MOST_IMAGES], _BATCH)
        self._count = sum(len(batch) for batch in self._batches)
        self._expected = [self._answers(batch) for batch in self._batches]

    def _answers(self, batch: Tensor) -> Tensor:
        answers: Tensor = self._server(self._prepared(batch)).flatten(1).log_softmax(1)
        return answers

    def __call__(self) -> float:
        return (
            sum(
                float(kl_div(self._answers(batch), expected, reduction="sum", log_target=True))
                for batch, expected in zip(self._batches, self._expected, strict=True)
            )
            / self._count
        )


def refine_ranges(
    prepared: fx.GraphModule,
    server: nn.Module,
    images: Tensor,
    tensors: int,
    *,
    progress: Progress = silent,
) -> None:
    """Try other ranges for the tensors whose rounding harms most; keep what lowers the loss.

    Args:
        prepared: of ``prepare_fx``, calibrated; the ranges of its observers are changed.
        server: boundary (N, …) float32 → logits (N, K).
        images: preprocessed calibration images, float32 (N, 3, S, S); the first 384 are used.
        tensors: how many are refined.
        progress: called once a tensor and round.
    """
    observers = [o for o in observers_of(prepared).values() if bool(o.max_val > o.min_val)]
    with passing(observers), torch.inference_mode():
        loss = _Loss(prepared, server, images)
        for observer in observers:
            observer.rounding = True
        harm = [(_without(observer, loss), k) for k, observer in enumerate(observers)]
        culprits = [observers[k] for _, k in sorted(harm)[:tensors]]
        best = loss()
        for step in range(_ROUNDS * len(culprits)):
            best = _refine(culprits[step % len(culprits)], loss, best)
            progress("ranges", step + 1, _ROUNDS * len(culprits))
        for observer in observers:
            observer.rounding = False


def _without(observer: RangeObserver, loss: _Loss) -> float:
    """Return the loss when everything but this tensor is rounded."""
    observer.rounding = False
    value = loss()
    observer.rounding = True
    return value


def _refine(observer: RangeObserver, loss: _Loss, best: float) -> float:
    for side in (1, 0):
        kept = observer.ends()
        for factor in _FACTORS if kept[side] else ():
            tried = list(kept)
            tried[side] *= factor
            if tried[0] >= tried[1]:
                continue
            former = observer.ends()
            observer.choose(*tried)
            value = loss()
            if value < best:
                best = value
            else:
                observer.choose(*former)
    return best
