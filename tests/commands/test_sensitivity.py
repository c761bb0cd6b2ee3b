"""``edgeveil sensitivity`` as a user calls it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from commands.sensitivity import command
from records import codec
from records.errors import ExportError, InputError, OverwriteError
from records.hashing import sha256_file
from records.sensitivity import SensitivityRecord
from tests.runtime_check.tiny_bundle import SPLIT, write_images

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: nn.Module,
    tiny_images: npt.NDArray[np.uint8],
) -> Path:
    folder = tmp_path_factory.mktemp("sensitivity")
    write_images(folder / "data.npz", tiny_model, tiny_images)
    save_file(tiny_model.state_dict(), folder / "model.safetensors")
    recipe = "[data]\ntrain = 16\ncalibration = 64\nattacker = 16\n"
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    return folder


def sensitivity(inputs: Path, *options: str) -> Result:
    arguments = ["--recipe", str(inputs / "recipe.toml"), "--data", f"npz:{inputs / 'data.npz'}"]
    arguments += ["--model", "tests.tiny_network:build", "--split", SPLIT]
    arguments += ["--weights", str(inputs / "model.safetensors")]
    return CliRunner(env={"COLUMNS": "120"}).invoke(command, [*arguments, *options])


def test_json_is_the_record_and_the_same_again(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "sensitivity.json"
    done = sensitivity(inputs, "--json", "--limit", "32", "--out", str(out))
    assert done.exit_code == 0, done.output
    record = codec.decode(done.stdout.encode(), SensitivityRecord, "stdout")
    assert out.read_text() == done.stdout
    assert record.images == 32
    assert record.checkpoint_sha256 == sha256_file(inputs / "model.safetensors")
    assert record.recipe.export.splits == (SPLIT,)
    assert {"stem.0", "block1.depthwise", "add"} <= {layer.name for layer in record.layers}
    assert sensitivity(inputs, "--json", "--limit", "32").stdout == done.stdout
    assert isinstance(sensitivity(inputs, "--out", str(out)).exception, OverwriteError)


def test_the_table_has_the_worst_layers_first(inputs: Path) -> None:
    record = codec.decode(
        sensitivity(inputs, "--json").stdout.encode(), SensitivityRecord, "stdout"
    )
    done = sensitivity(inputs, "--rows", "3")
    rows = [line.split("│")[1].split() for line in done.output.splitlines() if "│" in line]
    assert [row[0] for row in rows] == [layer.name for layer in record.layers[:3]]
    assert f"3 of {len(record.layers)} layers, 64 images" in done.output


def test_what_stays_in_float_is_not_swept(inputs: Path) -> None:
    done = sensitivity(inputs, "--json", "--float-layer", "block1")
    record = codec.decode(done.stdout.encode(), SensitivityRecord, "stdout")
    assert "block1.depthwise" not in {layer.name for layer in record.layers}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--float-layer", "blok1"), ExportError, "did you mean block1"),
        (("--weights", "nowhere.safetensors"), InputError, "not a file"),
    ],
)
def test_what_is_not_there_is_refused(
    inputs: Path, options: tuple[str, ...], error: type[Exception], message: str
) -> None:
    done = sensitivity(inputs, *options)
    assert isinstance(done.exception, error)
    assert message in str(done.exception)
