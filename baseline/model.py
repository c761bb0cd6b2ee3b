"""The network: torchvision's by name, or the user's own by ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from baseline.weights import fit_weights, read_weights
from records.errors import ModelError
from records.recipe import ModelRecipe

#: These return a tuple while they train, and no cut of theirs has been tried.
_UNSUITABLE = frozenset({"googlenet", "inception_v3"})


def build_model(recipe: ModelRecipe, num_classes: int, *, seed: int = 0) -> nn.Module:
    """Build the recipe's network with its weights, in eval mode on the CPU.

    ``recipe.name`` of the form ``package.module:factory`` imports and runs the user's code: take it
    from the user's own recipe only, never from a bundle.

    Args:
        recipe: name and weights; ``scratch`` initializes from ``seed``, ``imagenet`` takes
            torchvision's default weights with a new head, else a file that must fit whole.
        num_classes: width of the head, at least 1.
        seed: of whatever is initialized anew; torch's global generator is left as it was.

    Returns:
        A network from float32 (N, 3, S, S) to logits (N, ``num_classes``).

    Raises:
        ModelError: unknown name, weights that are missing, damaged or do not fit, no network for
            ``imagenet``, or a factory that fails.
    """
    own = ":" in recipe.name
    if own and recipe.weights == "imagenet":
        raise ModelError(f"{recipe.name} has no imagenet weights; use scratch or a file")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (
            _from_factory(recipe.name, num_classes)
            if own
            else _from_torchvision(recipe.name, num_classes)
        )
    _load(model, recipe, num_classes)
    return model.eval()


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values of a network (buffers not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_forward(model: nn.Module, recipe: ModelRecipe, num_classes: int) -> None:
    """Refuse a network that does not turn images of the recipe's size into logits.

    Args:
        model: in eval mode on the CPU.
        recipe: name and image size.
        num_classes: the width that the logits must have.

    Raises:
        ModelError: the forward pass fails or returns another shape.
    """
    size = recipe.image_size
    try:
        with torch.inference_mode():
            logits = model(torch.zeros(2, 3, size, size))
    # Networks refuse a size in their own ways: RuntimeError, AssertionError, ValueError.
    except Exception as error:
        raise ModelError(f"{recipe.name} cannot take {size} px images: {error}") from error
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (2, num_classes):
        raise ModelError(
            f"{recipe.name} returns {shape} for two images, logits (2, {num_classes}) are needed"
        )


def _load(model: nn.Module, recipe: ModelRecipe, num_classes: int) -> None:
    into = f"{recipe.name} with {num_classes} classes"
    if recipe.weights == "scratch":
        return
    if recipe.weights == "imagenet":
        weights = _imagenet(recipe.name)
        own = model.state_dict()
        head = {k: own[k] for k in own if k in weights and own[k].shape != weights[k].shape}
        fit_weights(model, weights | head, f"imagenet's {recipe.name}", into)
        return
    fit_weights(model, read_weights(Path(recipe.weights)), recipe.weights, into)


def _from_torchvision(name: str, num_classes: int) -> nn.Module:
    from torchvision import models  # takes seconds, which a bundle or a network of one's own spares

    if name in _UNSUITABLE or name not in models.list_models(module=models):
        raise ModelError(
            f"network {name!r} is not known; use a torchvision name such as mobilenet_v3_small, "
            "mobilenet_v2 or shufflenet_v2_x1_0, or package.module:factory"
        )
    model = models.get_model(name, weights=None, num_classes=num_classes)
    if not isinstance(model, nn.Module):
        raise ModelError(f"torchvision's {name} is no torch.nn.Module")
    return model


def _imagenet(name: str) -> dict[str, torch.Tensor]:
    from torchvision import models

    choice = models.get_model_weights(name).DEFAULT
    try:
        weights: dict[str, torch.Tensor] = choice.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (URLError, OSError, RuntimeError) as error:
        raise ModelError(
            f"torchvision's weights {choice} cannot be fetched ({error}); without a network use "
            "--weights scratch or --weights FILE"
        ) from error
    return weights


def _from_factory(name: str, num_classes: int) -> nn.Module:
    factory = _factory(name)
    try:
        model = _call(factory, num_classes)
    # The user's code may raise anything; it becomes one sentence with the cause attached.
    except Exception as error:
        raise ModelError(f"{name}({num_classes}) failed: {error!r}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _call(factory: Callable[..., object], num_classes: int) -> object:
    if "num_classes" in inspect.signature(factory).parameters:
        return factory(num_classes=num_classes)
    return factory(num_classes)


def _factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        with _current_folder_importable():
            found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise ModelError(f"{name} cannot be imported: {error}") from error
    if not callable(found):
        raise ModelError(f"{name} is not callable; name a class or function of num_classes")
    factory: Callable[..., Any] = found
    return factory


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Let an import find modules beside the user, where a console script would not look."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
