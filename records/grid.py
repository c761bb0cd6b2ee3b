"""The grid of a sweep: split × boundary bits × attacker × seed over one base recipe, from TOML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from records.errors import RecipeError
from records.recipe import AttackRecipe, Recipe, Section, Seed, key_first, read_recipe

BoundaryBits = Literal[8, 6, 4, 3, 2, 1]
Seeds = Annotated[tuple[Seed, ...], Meta(min_length=1)]

#: The rule of the verdict is sealed in every bundle: no attacker may bring another one.
RULE_KEYS = frozenset(
    {
        "margin_db",
        "confidence",
        "bootstrap_resamples",
        "drift_tolerance_db",
        "ceiling_db",
        "controls",
    }
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class Headline(Section, frozen=True, kw_only=True):
    """Other seeds than the grid's for one split and bit width, all attackers or those named."""

    split: str
    bits: BoundaryBits
    seeds: Seeds
    attackers: tuple[str, ...] = ()


class Grid(Section, frozen=True, kw_only=True):
    """A whole sweep, its base recipe and attackers resolved.

    ``base`` decides everything that the grid does not: data, network, training, quantization,
    tolerances and margin; its splits and attacker seeds are not used. ``attackers``: name →
    the base's attack section with that attacker's overrides (its ``seeds`` mean nothing).
    ``latency``: measure each point's ONNX edge here, one after the other, when all else is done.
    """

    schema: Literal[1] = 1
    name: str
    base: Recipe
    splits: Annotated[tuple[str, ...], Meta(min_length=1)]
    boundary_bits: Annotated[tuple[BoundaryBits, ...], Meta(min_length=1)]
    attackers: Annotated[dict[str, AttackRecipe], Meta(min_length=1)]
    seeds: Seeds = (0,)
    headline: tuple[Headline, ...] = ()
    latency: bool = False

    def __post_init__(self) -> None:
        """Refuse what is named twice, or a headline of something that is not in the grid."""
        for what, values in (
            ("split", self.splits),
            ("bit width", self.boundary_bits),
            ("seed", self.seeds),
            *(("headline seed", h.seeds) for h in self.headline),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"the same {what} is named twice")
        for name in self.attackers:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"attacker {name!r}: use lower-case letters, digits and hyphens, at most 40"
                )
        for one in self.headline:
            self._refuse_unknown(one)
        # Checks the splits' spelling, as in a recipe.
        msgspec.structs.replace(self.base.export, splits=self.splits)

    def _refuse_unknown(self, one: Headline) -> None:
        if one.split not in self.splits or one.bits not in self.boundary_bits:
            raise ValueError(f"headline {one.split} at {one.bits} bits is not in the grid")
        unknown = [name for name in one.attackers if name not in self.attackers]
        if unknown:
            raise ValueError(f"headline {one.split}: no attacker is named {', '.join(unknown)}")


class _GridFile(Section, frozen=True, kw_only=True):
    """A grid as written: a base by path or inline, attackers as overrides of its section."""

    schema: Literal[1] = 1
    name: str
    base: str | Recipe
    splits: tuple[str, ...]
    boundary_bits: tuple[BoundaryBits, ...] = (8,)
    attackers: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    seeds: Seeds = (0,)
    headline: tuple[Headline, ...] = ()
    latency: bool = False


def read_grid(path: Path, *, data: str | None = None, weights: str | None = None) -> Grid:
    """Read a grid from a TOML file; a base given by path is relative to that file.

    Args:
        path: the grid.
        data: another data source than the base's.
        weights: trained weights to be used as they are: nothing is trained.

    Raises:
        RecipeError: a file is missing, not TOML, or has an unknown key or a bad value.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"grid {path} cannot be read: {error.strerror}") from error
    try:
        written = msgspec.toml.decode(text, type=_GridFile)
        base = _base(written, path, data, weights)
        return Grid(
            name=written.name,
            base=base,
            splits=written.splits,
            boundary_bits=written.boundary_bits,
            attackers=_attackers(written, base.attack),
            seeds=written.seeds,
            headline=written.headline,
            latency=written.latency,
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise RecipeError(f"grid {path}: {key_first(error)}") from error


def _base(written: _GridFile, path: Path, data: str | None, weights: str | None) -> Recipe:
    named = written.base
    base = read_recipe(path.parent / named) if isinstance(named, str) else named
    plain = msgspec.to_builtins(base)
    if data is not None:
        plain["data"]["source"] = data
    if weights is not None:
        plain["model"]["weights"] = weights
        plain["train"]["epochs"] = 0
    return msgspec.convert(plain, type=Recipe)


def _attackers(written: _GridFile, base: AttackRecipe) -> dict[str, AttackRecipe]:
    """Return every attacker whole; a grid that names none has the base's, called ``base``."""
    found: dict[str, AttackRecipe] = {}
    for name, overrides in (written.attackers or {"base": {}}).items():
        if "seeds" in overrides:
            raise ValueError(f"attacker {name}: seeds are the grid's, not an attacker's")
        rule = sorted(RULE_KEYS & overrides.keys())
        if rule:
            raise ValueError(
                f"attacker {name} sets {', '.join(rule)}: the rule of the verdict is the base's, "
                "the same for every attacker"
            )
        plain = msgspec.to_builtins(base) | overrides | {"seeds": list(written.seeds)}
        found[name] = msgspec.convert(plain, type=AttackRecipe)
    return found
