"""The quantizer's further tools as options of ``edgeveil export``: equalization, BatchNorm, QAT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option(
        "--cross-layer-equalization/--no-cross-layer-equalization",
        "equalization",
        default=None,
        help="Equalize channels between layers that a ReLU joins, exactly in FP32  [default: no]",
    ),
    click.option(
        "--bn-reestimation/--no-bn-reestimation",
        "bn_reestimation",
        default=None,
        help="Estimate the BatchNorm statistics anew behind rounded weights  [default: no]",
    ),
    click.option(
        "--whole-steps/--no-whole-steps",
        "whole_steps",
        default=None,
        help="Let 3 be a whole number of steps before a hard-swish: cheaper ONNX  [default: no]",
    ),
    click.option(
        "--qat/--no-qat",
        default=None,
        help="Train the quantized edge, with the FP32 network as the teacher  [default: no]",
    ),
    click.option("--qat-epochs", type=int, help="Passes over the training images  [default: 1]"),
    click.option(
        "--qat-images", type=int, help="Train on the first so many training images [default: all]"
    ),
    click.option("--qat-batch-size", type=int, help="Images of one training step  [default: 64]"),
    click.option(
        "--qat-learning-rate",
        type=float,
        help="Relative to the size of each weight tensor  [default: 0.003]",
    ),
    click.option("--qat-seed", type=int, help="Of the order, crops and flips  [default: 0]"),
)


def quantizer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; each is passed on under its key of the recipe's ``export``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
