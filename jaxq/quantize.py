"""The one verb: `jaxq.quantize(target, recipe, *example, **example_kwargs)`, for whatever kind of target."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from jaxq import linen, nnx
from jaxq.errors import InputError
from jaxq.frontends.core import Bound, Core
from jaxq.frontends.function import QuantizedFunction, bind_function, quantize_function
from jaxq.plan.recipe import Recipe, read_recipe


def quantize(
    target: Any,
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any] = "int8",
    *example: Any,
    **example_kwargs: Any,
) -> Any:
    """Quantize a model: an `nnx.Module` gives an `nnx.Module`, a Linen module a Linen module, a function a
    QuantizedFunction.

    Args:
      target: the model. A plain function is `f(params, *inputs)`, and its example begins with params.
      recipe: a Recipe, the name of a shipped one ("int8"), a dict, or the path of a TOML file.
      example: inputs of the shapes to export, usually one example (`images[:1]`). Only shapes and dtypes are read.

    Raises: CaptureError for a model that cannot be a static graph; RecipeError; PlanError.

    The model itself is unchanged: its parameters are trained through the simulation, and a float checkpoint loads as
    before.
    """
    return frontend_of(target)(target, Core(read_recipe(recipe)), example, example_kwargs)


def frontend_of(target: Any) -> Callable[..., Any]:
    """The function `(target, core, example, example_kwargs) -> quantized` for this kind of target."""
    if nnx.takes(target):
        return nnx.quantize_nnx
    if linen.takes(target):
        return linen.quantize_linen
    if callable(target):
        return quantize_function
    raise InputError(
        f"jaxq.quantize takes an nnx.Module, a Linen module or a function f(params, *inputs), not {target!r}."
    )


# A quantized target, how to bind it, and the state that is handed over beside it.
BINDERS: tuple[tuple[type, Callable[..., Bound], str], ...] = (
    (nnx.QuantizedModel, nnx.bind_nnx, ""),
    (linen.QuantizedLinen, linen.bind_linen, "variables"),
    (QuantizedFunction, bind_function, "params, ranges"),
)


def bind(target: Any, *state: Any) -> Bound:
    """A quantized target with its state: none for NNX, `variables` for Linen, `params, ranges` for a function."""
    found = next(((binder, wanted) for kind, binder, wanted in BINDERS if isinstance(target, kind)), None)
    if found is None:
        raise InputError(f"{type(target).__name__} is not quantized; take the result of jaxq.quantize(model, ...).")
    binder, wanted = found
    if len(state) != len(wanted.split()):
        raise InputError(
            f"{type(target).__name__} takes {len(wanted.split())} arguments of state ({wanted or 'none'}), not "
            f"{len(state)}."
        )
    return binder(target, *state)
