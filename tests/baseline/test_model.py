from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from baseline.model import build_model, check_forward, count_parameters
from baseline.weights import save_weights
from records.errors import ModelError
from records.recipe import ModelRecipe

NAMES = ["mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "shufflenet_v2_x0_5"]


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_networks_get_a_head_of_the_classes(name: str) -> None:
    recipe = ModelRecipe(name=name)
    model = build_model(recipe, 7)
    assert not model.training
    check_forward(model, recipe, 7)


def test_scratch_follows_the_seed_and_leaves_the_global_generator_alone() -> None:
    recipe = ModelRecipe(name="shufflenet_v2_x0_5")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, same, other = (build_model(recipe, 4, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_a_file_of_weights_is_loaded_whole(tmp_path: Path) -> None:
    recipe = ModelRecipe(name="shufflenet_v2_x0_5")
    saved = build_model(recipe, 4, seed=3)
    save_weights(saved, tmp_path / "m.safetensors")
    loaded = build_model(
        ModelRecipe(name=recipe.name, weights=str(tmp_path / "m.safetensors")), 4, seed=9
    )
    own = saved.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in loaded.state_dict().items())
    with pytest.raises(ModelError, match=r"with 5 classes: 2 of another shape \(fc\.weight"):
        build_model(ModelRecipe(name=recipe.name, weights=str(tmp_path / "m.safetensors")), 5)


@pytest.fixture
def imagenet_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point torch's cache to an empty folder and the network to a port where nobody listens."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_imagenet_without_a_network_says_what_to_do(imagenet_cache: Path) -> None:
    with pytest.raises(ModelError, match="--weights scratch"):
        build_model(ModelRecipe(weights="imagenet"), 4)
    assert list(imagenet_cache.iterdir()) == []


def test_imagenet_weights_fill_the_backbone_and_the_head_is_new(imagenet_cache: Path) -> None:
    name = "shufflenet_v2_x0_5"
    published = models.get_model(name, num_classes=1000).state_dict()
    url = models.get_model_weights(name).DEFAULT.url
    torch.save(published, imagenet_cache / url.rpartition("/")[2])
    recipe = ModelRecipe(name=name, weights="imagenet")
    own = build_model(recipe, 4, seed=1).state_dict()
    assert torch.equal(own["conv5.0.weight"], published["conv5.0.weight"])
    assert own["fc.weight"].shape == (4, 1024)
    again = build_model(recipe, 4, seed=1).state_dict()
    assert torch.equal(own["fc.weight"], again["fc.weight"])


@pytest.mark.parametrize("name", ["resnet_of_dreams", "googlenet", "torch", "fasterrcnn"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is not known"):
        build_model(ModelRecipe(name=name), 4)


def test_a_network_of_ones_own() -> None:
    recipe = ModelRecipe(name="tests.tiny_network:build")
    model = build_model(recipe, 5)
    check_forward(model, recipe, 5)
    assert count_parameters(model) == sum(p.numel() for p in model.parameters()) > 1000
    with pytest.raises(ModelError, match="no imagenet weights"):
        build_model(ModelRecipe(name=recipe.name, weights="imagenet"), 5)


OWN = """
from torch import nn

def by_position(k, /):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, k))

def by_name(width=3, *, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, num_classes))

def fails(num_classes):
    raise KeyError("weights")

def returns_none(num_classes):
    return None

number = 3
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_the_user.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "beside_the_user", raising=False)


@pytest.mark.parametrize("factory", ["by_position", "by_name"])
@pytest.mark.usefixtures("beside")
def test_a_module_in_the_current_folder_is_found(factory: str) -> None:
    path = list(sys.path)
    model = build_model(ModelRecipe(name=f"beside_the_user:{factory}"), 6)
    assert tuple(model(torch.zeros(1, 3, 4, 4)).shape) == (1, 6)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("beside_the_user:fails", "failed: KeyError"),
        ("beside_the_user:returns_none", "returned NoneType"),
        ("beside_the_user:number", "not callable"),
        ("beside_the_user:nothing", "cannot be imported"),
        ("no_such_module:build", "cannot be imported"),
        (":build", "cannot be imported"),
    ],
)
@pytest.mark.usefixtures("beside")
def test_a_factory_that_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_model(ModelRecipe(name=name), 6)


def test_a_network_that_cannot_take_the_images_is_refused() -> None:
    recipe = ModelRecipe(name="own:network", image_size=16)
    with pytest.raises(ModelError, match="cannot take 16 px images"):
        check_forward(nn.Linear(3, 4), recipe, 4)
    with pytest.raises(ModelError, match=r"returns \(2, 3, 16, 16\)"):
        check_forward(nn.Identity(), recipe, 4)
