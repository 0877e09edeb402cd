"""TARGET, the model that a command is about: a function somewhere that returns it with an example."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from jaxq.cli.failures import usage
from jaxq.cli.shipped import recipe_module
from jaxq.display.text import did_you_mean
from jaxq.errors import JaxqError


class Loaded(NamedTuple):
    """A model, its example inputs, and for Linen its variables, for a plain function its params."""

    name: str
    model: Any
    example: tuple[Any, ...]
    state: Any = None


def load_target(text: str) -> Loaded:
    """What the function named by TARGET returns. Raises a usage error."""
    if ":" not in text:
        if text.endswith(".py") and pathlib.Path(text).is_file() and not text.startswith("recipes/"):
            raise usage(f"{text} is a file; name the function in it that returns (model, example): {text}:function")
        return _returned(text, recipe_module(text, "target").target)
    place, _, name = text.rpartition(":")
    module = _from_file(pathlib.Path(place)) if place.endswith(".py") else _from_package(place)
    functions = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    function = getattr(module, name, None)
    if not callable(function):
        raise usage(f"{place} has no function {name!r}. {did_you_mean(name, functions)}")
    return _returned(text, function)


def _from_file(path: pathlib.Path) -> ModuleType:
    if not path.is_file():
        raise usage(f"There is no file {path}.")
    name = f"jaxq_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    sys.path.insert(0, str(path.parent.absolute()))  # as `python file.py` does
    _guarded(str(path), lambda: spec.loader.exec_module(module))  # pyright: ignore[reportOptionalMemberAccess]
    return module


def _from_package(name: str) -> ModuleType:
    sys.path.insert(0, str(pathlib.Path.cwd()))  # as `python -m` does
    try:
        found = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        raise usage(f"There is no module {name!r} on the path. For a file: path/to/file.py:function")
    return _guarded(name, lambda: importlib.import_module(name))


def _guarded(where: str, call: Callable[[], Any]) -> Any:
    """Run the user's code. Its errors become one message with the place; jaxq's own pass."""
    try:
        return call()
    except (JaxqError, ImportError):
        raise
    except Exception as e:
        last = traceback.extract_tb(e.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}" if not isinstance(e, SyntaxError) else str(e.filename)
        raise usage(f"{where} raised {type(e).__name__}: {e} ({place}).") from e


def _returned(text: str, function: Callable[[], Any]) -> Loaded:
    value = _guarded(text, function)
    if not isinstance(value, tuple) or len(value) not in (2, 3):
        raise usage(
            f"{text} returned {type(value).__name__}; it must return (model, example), for Linen (module, example, "
            "variables), for a function (f, example, params)."
        )
    example = value[1] if isinstance(value[1], tuple) else (value[1],)
    if not example or not all(hasattr(array, "shape") and hasattr(array, "dtype") for array in example):
        raise usage(f"The example that {text} returned must be an array, or a tuple of arrays, not {value[1]!r:.80}.")
    return Loaded(text, value[0], example, *value[2:])
