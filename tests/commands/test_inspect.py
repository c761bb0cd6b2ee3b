"""``edgeveil inspect`` as a user calls it."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner, Result

from baseline.model import build_model
from baseline.split import list_cuts, split_network
from commands.inspect import command
from records import codec
from records.cuts import CutList
from records.errors import ModelError, RecipeError, UnsupportedHereError
from records.recipe import ModelRecipe


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(
        command, list(arguments), catch_exceptions=False, standalone_mode=False
    )


def test_json_is_the_record_and_nothing_else() -> None:
    result = call("--model", "mobilenet_v3_small", "--image-size", "64", "--json")
    record = codec.decode(result.stdout.encode(), CutList, "stdout")
    model = build_model(ModelRecipe(image_size=64), 100)
    assert record.cuts == list_cuts(model, (3, 64, 64))
    assert record.input_shape == (3, 64, 64)
    by_name = {cut.name: cut for cut in record.cuts}
    assert by_name["features.3"].boundary_shape == (24, 8, 8)
    assert by_name["features.3"].boundary_bytes_fp32 == 24 * 8 * 8 * 4
    assert by_name["avgpool"].boundary_bytes_uint8 == 576


def test_every_listed_cut_can_be_split() -> None:
    result = call("--model", "tests.tiny_network:build", "--num-classes", "8", "--json")
    model = build_model(ModelRecipe(name="tests.tiny_network:build"), 8)
    names = [cut["name"] for cut in json.loads(result.stdout)["cuts"]]
    assert "block3" in names
    assert "block3.squeeze" not in names  # the skip connection jumps over it
    for name in names:
        assert split_network(model, name).name == name


def test_the_table_names_every_cut_with_its_shape_and_bytes() -> None:
    result = call("--model", "tests.tiny_network:build", "--image-size", "32")
    # stem 256·8·27, block1 256·(8·9 + 8·8), block2 64·8·9 + (8·4 + 4·8) + 64·16·8; then block3
    # 64·16·9 + (16·4 + 4·16) + 64·16·16, head 64·32·16 and the classifier's 32·100: 164,672 in all.
    row = next(line for line in result.stdout.splitlines() if "block2 " in line)
    assert row.split() == ["block2", "724", "102,976", "62.5%", "16×8×8", "4,096", "1,024"]


def test_the_whole_network_is_marked() -> None:
    result = call("--model", "tests.tiny_network:build", "--num-classes", "8")
    marked = [line for line in result.stdout.splitlines() if "(whole)" in line]
    assert len(marked) == 1
    cells = marked[0].split()
    assert (*cells[:2], *cells[4:6]) == ("classifier", "(whole)", "100.0%", "8")


def test_the_head_does_not_move_the_cuts() -> None:
    few, many = (
        json.loads(call("--model", "tests.tiny_network:build", "--num-classes", n, "--json").stdout)
        for n in ("2", "50")
    )
    # The whole network ends with the head.
    assert all(cuts["cuts"][-1]["whole_network"] for cuts in (few, many))
    few, many = ([c["edge_macs"] for c in cuts["cuts"][:-1]] for cuts in (few, many))
    assert few == many


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ModelError, match="nope"):
        call("--model", "nope")


def test_an_absurd_image_size_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"\[model\] image_size: Expected `int` >= 8"):
        call("--image-size", "3")


def test_no_classes_is_a_usage_error() -> None:
    with pytest.raises(click.BadParameter):
        call("--num-classes", "0")


def test_without_the_extra_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.export_extra.find_spec", lambda name: None)
    with pytest.raises(UnsupportedHereError, match="pip install"):
        call()
