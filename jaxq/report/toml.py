"""A recipe as the text of a TOML file that `jaxq.Recipe` files are read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from jaxq.plan.recipe import Recipe


def toml(recipe: Recipe) -> str:
    """The recipe's name and all that it changes from the defaults, in TOML."""
    own, plain = msgspec.to_builtins(recipe), msgspec.to_builtins(Recipe(name=recipe.name))
    changed = {key: value for key, value in own.items() if value != plain[key] or key == "name"}
    head = _lines({k: v for k, v in changed.items() if not _is_table(v)})
    for key, value in changed.items():
        if isinstance(value, Mapping):
            head += ["", f"[{key}]", *_lines({k: v for k, v in value.items() if v != plain[key][k]})]
        elif _is_table(value):
            head += [line for entry in value for line in ("", f"[[{key}]]", *_lines(entry))]
    return "\n".join(head)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)
    )


def _lines(values: Mapping[str, Any]) -> list[str]:
    """`key = value`; strings, numbers, booleans and lists are in TOML as they are in JSON, and None is left out."""
    return [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
