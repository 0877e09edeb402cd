"""The recipes that ship with jaxq: modules of jaxq.recipes, found by what they define, without importing them all."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pathlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from jaxq.cli.failures import usage
from jaxq.display.text import did_you_mean

PACKAGE = "jaxq.recipes"


def recipe_names(function: str) -> list[str]:
    """The recipes that define this function: `run` to be trained, `target` to be planned and exported."""
    package = importlib.import_module(PACKAGE)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if function in _defined(m.name))


def recipe_module(name: str, function: str) -> ModuleType:
    """The module of a recipe: `mnist`, `recipes/mnist` or `recipes/mnist.py`. Raises a usage error with the nearest."""
    plain, known = plain_name(name), recipe_names(function)
    if plain not in known:
        raise usage(f"There is no recipe {name!r} that defines {function}(). {did_you_mean(plain, known)}")
    return importlib.import_module(f"{PACKAGE}.{plain}")


def plain_name(name: str) -> str:
    """`recipes/mnist.py` to `mnist`."""
    parts = pathlib.PurePath(name.removesuffix(".py")).parts
    return "/".join(parts[1:] if parts[:1] == ("recipes",) else parts)


def _defined(module: str) -> set[str]:
    spec = importlib.util.find_spec(f"{PACKAGE}.{module}")
    if spec is None or spec.origin is None:
        return set()
    return set(_bound(ast.parse(pathlib.Path(spec.origin).read_text("utf-8"))))


def _bound(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
