"""Names of a model's arguments and results, for the ends of its file: `image`, `features/x`, `boxes`, `output_1`.

An argument has its parameter's name, and what is inside it the path to it: `features/x`. The results have the keys of
the structure that they come in: dict keys and field names; a number alone is `output_0`, and a lone array `output`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxq.frontends.call import leaf_names


def argument_names(called: Callable[..., Any], skip: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """A name for each leaf of a call's arguments, in the order of the leaves.

    Args:
      called: the function whose parameters they are. skip: how many parameters come before these arguments.
      args, kwargs: the arguments; leaves without a shape have names too.
    """
    positional = [*_positional(called, skip, len(args))]
    named = [*zip(positional, args, strict=True), *((k, kwargs[k]) for k in sorted(kwargs))]
    return unique([_joined(name, path) for name, arg in named for path in leaf_names(arg)])


def _positional(called: Callable[..., Any], skip: int, count: int) -> list[str]:
    try:
        parameters = [*inspect.signature(called).parameters.values()][skip:]
    except (TypeError, ValueError):  # a callable that says nothing of its parameters
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "input")
    return [*names, *(f"{rest}_{i}" for i in range(count - len(names)))]


def result_names(result: Any) -> list[str]:
    """A name for each leaf of a model's result, in the order of the leaves."""
    return unique([_result_name(path) for path in leaf_names(result)])


def _result_name(path: str) -> str:
    if not path:
        return "output"
    return f"output_{path}" if path[0].isdigit() else path


def _joined(name: str, path: str) -> str:
    return f"{name}/{path}" if path else name


def unique(names: Sequence[str]) -> list[str]:
    """The names, each but the first of its kind with a number behind it."""
    found: list[str] = []
    for name in names:
        number, other = 1, name
        while other in found:
            number, other = number + 1, f"{name}_{number}"
        found.append(other)
    return found
