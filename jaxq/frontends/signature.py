"""Names of a model's arguments and results, for the ends of its file: `image`, `features/x`, `boxes`, `output_1`.

An argument has its parameter's name, and what is inside it the path to it: `features/x`. The results have the keys of
the structure that they come in: dict keys and field names; a number alone is `output_0`, and a lone array `output`.
An argument given by position and the same argument given by keyword are one: `placed_as` moves it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

from jaxq.frontends.call import leaf_names

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_SEVERAL = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def argument_names(called: Callable[..., Any], skip: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """A name for each leaf of a call's arguments, in the order of the leaves.

    Args:
      called: the function whose parameters they are. skip: how many parameters come before these arguments.
      args, kwargs: the arguments; leaves without a shape have names too.
    """
    positional = [*_positional(parameters_of(called, skip), len(args))]
    named = [*zip(positional, args, strict=True), *((k, kwargs[k]) for k in sorted(kwargs))]
    return unique([_joined(name, path) for name, arg in named for path in leaf_names(arg)])


def parameters_of(called: Callable[..., Any], skip: int) -> tuple[Parameter, ...]:
    """The parameters of a function after the first `skip`; none of a callable that says nothing of them."""
    try:
        return tuple(inspect.signature(called).parameters.values())[skip:]
    except (TypeError, ValueError):
        return ()


def _positional(parameters: Sequence[Parameter], count: int) -> list[str]:
    names = _by_position(parameters)[:count]
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), "input")
    return [*names, *(f"{rest}_{i}" for i in range(count - len(names)))]


def _by_position(parameters: Sequence[Parameter]) -> list[str]:
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def placed_as(parameters: Sequence[Parameter], count: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """The same call with its first `count` parameters given by position and the others by keyword.

    Args:
      parameters: of the function, as `parameters_of` gives them.
      count: how many arguments the example of `jaxq.quantize` has by position.
      args, kwargs: of a call. A parameter that it leaves out, before one that it gives, has its default.

    Returns: the call's arguments; as they are where the function does not take them.
    """
    given = _given(parameters, args, kwargs)
    if given is None or not parameters:
        return tuple(args), dict(kwargs)
    values, rest, keywords = given
    names = _by_position(parameters)
    lead = names if rest else names[:count]
    lead = lead[: max((i + 1 for i, name in enumerate(lead) if name in values), default=0)]
    defaults = {p.name: p.default for p in parameters}
    positional = [values.pop(name, defaults[name]) for name in lead]
    only = {p.name for p in parameters if p.kind == p.POSITIONAL_ONLY}
    if any(value is Parameter.empty for value in positional) or only & values.keys():
        return tuple(args), dict(kwargs)
    return (*positional, *rest), {**values, **keywords}


class _Given(NamedTuple):
    """What a call gives: by parameter, in the rest of its positions (`*args`), and by other keywords (`**kwargs`)."""

    values: dict[str, Any]
    rest: tuple[Any, ...]
    keywords: dict[str, Any]


def _given(parameters: Sequence[Parameter], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Given | None:
    """None for a call that the parameters do not take."""
    try:
        values = inspect.Signature(parameters).bind_partial(*args, **kwargs).arguments
    except TypeError:
        return None
    several = {p.kind: values.pop(p.name) for p in parameters if p.kind in _SEVERAL and p.name in values}
    return _Given(values, several.get(Parameter.VAR_POSITIONAL, ()), several.get(Parameter.VAR_KEYWORD, {}))


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
