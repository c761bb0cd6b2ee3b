"""A recipe as the TOML text that reads back to it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import msgspec

from records.recipe import Recipe


def recipe_toml(recipe: Recipe, *, leave_out: Collection[str] = ()) -> str:
    """Return a recipe as TOML: ``read_recipe`` on this text gives the same recipe.

    Keys whose value is None are left out: TOML has no null, and absent means the default.

    Args:
        recipe: what is written.
        leave_out: sections that whoever reads the text does not need.
    """
    plain: dict[str, Any] = msgspec.to_builtins(recipe)
    plain = {key: value for key, value in plain.items() if key not in leave_out}
    sections = {key: value for key, value in plain.items() if isinstance(value, dict)}
    blocks = [_pairs({key: value for key, value in plain.items() if key not in sections})]
    blocks += [f"[{name}]\n{_pairs(values)}" for name, values in sections.items()]
    return "\n".join(blocks)


def _pairs(values: dict[str, Any]) -> str:
    return "".join(f"{k} = {_value(v)}\n" for k, v in values.items() if v is not None)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        # JSON's escapes are TOML's too, except that TOML also wants DEL escaped and knows no
        # surrogate pairs: so characters beyond ASCII stay as they are.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return json.dumps(value)
