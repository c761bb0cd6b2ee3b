"""The quantizer's settings as options: ranges, and what ``edgeveil export`` has beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

_RANGES = (
    click.option(
        "--weight-observer",
        type=click.Choice(["per-channel", "per-tensor"]),
        help="Scales of the weights  [default: per-channel]",
    ),
    click.option(
        "--activation-observer",
        type=click.Choice(["min-max", "histogram", "percentile", "mse", "fisher"]),
        help="How activation ranges are found  [default: histogram]",
    ),
    click.option(
        "--refined-tensors",
        type=int,
        help="Fit the ranges of so many most harmful tensors to the network's loss  [default: 0]",
    ),
    click.option(
        "--float-layer",
        "float_layers",
        multiple=True,
        metavar="NAME",
        callback=lambda _, __, names: list(names) or None,
        help="Leave this module, or node of the graph, in float; repeatable.",
    ),
)
_TOOLS = (
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
        help="Ranges that make hard-swish and hard-sigmoid cheap in ONNX  [default: no]",
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


def range_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what decides the ranges; each is passed on under its key of the recipe's ``export``."""
    return _with(_RANGES, command)


def quantizer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the further tools; each is passed on under its key of the recipe's ``export``."""
    return _with(_TOOLS, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
