"""A recipe as the text of a TOML file that `read_recipe` reads again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from jaxq.plan.recipe import Recipe


def recipe_text(recipe: Recipe) -> str:
    """What of a recipe is not a default, in TOML. `read_recipe` of the file gives an equal recipe."""
    return _table(_changed(msgspec.to_builtins(recipe), msgspec.to_builtins(Recipe())), ())


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value, default = _changed(value, default), {}
        if value != default:
            found[key] = value
    return found


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """The keys of a table, then the tables in it."""
    lines = [f"{key} = {_value(v)}" for key, v in values.items() if v is not None and not _tables(v)]
    for key, value in values.items():
        below = (*path, key)
        if isinstance(value, Mapping):
            lines += ["", f"[{'.'.join(below)}]", _table(value, below).rstrip()]
        elif _tables(value):
            for entry in value:
                lines += ["", f"[[{'.'.join(below)}]]", _table(entry, below).rstrip()]
    return "\n".join(lines).lstrip("\n") + "\n"


def _tables(value: Any) -> bool:
    """Whether a value is a table or several."""
    return isinstance(value, Mapping) or (
        isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)
    )


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
