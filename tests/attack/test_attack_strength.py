"""The yardstick is the plain decoder that was agreed on, and both run on the same features."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from torch import nn

from attack.strength import main, plain_decoder
from records.errors import InputError
from tests.runtime_check.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    import torch


def test_the_plain_decoder_is_what_was_agreed() -> None:
    net = plain_decoder(24, 8, 32)
    kinds = [type(layer).__name__ for layer in net]
    doubling = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert kinds == ["Conv2d", *doubling, *doubling, "Conv2d", "Sigmoid"]
    first, up = net[0], net[1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(up, nn.ConvTranspose2d)
    assert (first.in_channels, first.out_channels, first.kernel_size) == (24, 128, (3, 3))
    assert (up.out_channels, up.kernel_size, up.stride) == (128, (4, 4), (2, 2))
    with pytest.raises(InputError, match="doubling"):
        plain_decoder(24, 7, 32)


def test_it_prints_both_on_the_same_features(
    tmp_path: Path, tiny_model: torch.nn.Module, tiny_images: npt.NDArray[np.uint8]
) -> None:
    bundle, _ = tiny_bundle(tmp_path, tiny_model, tiny_images)
    options = ["--plain-epochs", "1", "--epochs", "1", "--threads", "1"]
    arguments = [str(bundle.folder), "--cache", str(tmp_path / "cache"), *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = re.findall(r"^(.+?)\s+recon_psnr_db +([\d.]+)", result.output, re.MULTILINE)
    assert [name.split(",")[0] for name, _ in rows] == [
        "constant",
        "closed-form",
        "scratch",
        "plain",
    ]
    assert sum("(chosen)" in name for name, _ in rows) == 1
