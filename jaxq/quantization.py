"""The one verb: `jaxq.quantize(target, recipe, *example, **example_kwargs)`, for whatever kind of target."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxq import linen, nnx
from jaxq.errors import InputError
from jaxq.frontends.core import Bound
from jaxq.frontends.function import QuantizedFunction, bind_function, quantize_function
from jaxq.plan.recipe import Recipe, read_recipe
from jaxq.simulate.norm_statistics import states_of, with_statistics


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
      example_kwargs: keyword inputs of the model, arrays or static values such as `train=False`.

    Returns:
      The quantized model, of the target's kind, with its `plan`. The target itself is unchanged; its parameters are
      trained through the quantized model, and a float checkpoint loads as before.

    Raises:
      CaptureError: the model is no static graph. The text names the line.
      RecipeError: the recipe cannot be read, or one of its rules matches nothing (UnmatchedRuleError).
      PlanError: recipe, graph and target contradict one another.

    Example:
      >>> qmodel = jaxq.quantize(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), "int8", np.zeros((1, 4), np.float32))
      >>> qmodel.plan.recipe.name
      'int8'
    """
    return frontend_of(target)(target, read_recipe(recipe), example, example_kwargs)


def frontend_of(target: Any) -> Callable[..., Any]:
    """The function `(target, recipe, example, example_kwargs) -> quantized` for this kind of target."""
    if isinstance(target, tuple(kind for kind, _, _ in BINDERS)):
        raise InputError(
            f"This {type(target).__name__} is quantized already. Quantize the float model that it was made of "
            "(`.model` in NNX, `.module` in Linen): they share their parameters, so nothing that was trained is lost."
        )
    if isinstance(target, type):
        raise InputError(
            f"{target.__name__} is a class. Give a model, an instance of it: jaxq.quantize({target.__name__}(...))."
        )
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
    """A quantized target with its state: none for NNX, `variables` for Linen, `params, ranges` for a function.

    The statistics of BatchNorms that follow are among the parameters, as training has them.
    """
    found = next(((binder, wanted) for kind, binder, wanted in BINDERS if isinstance(target, kind)), None)
    if found is None:
        raise InputError(f"{type(target).__name__} is not quantized; take the result of jaxq.quantize(model, ...).")
    binder, wanted = found
    if len(state) != len(wanted.split()):
        raise InputError(
            f"{type(target).__name__} takes {len(wanted.split())} arguments of state ({wanted or 'none'}), not "
            f"{len(state)}."
        )
    bound = binder(target, *state)
    if not (norms := bound.core.plan.norms):
        return bound
    leaves, structure = jax.tree.flatten(bound.params)
    return bound._replace(params=jax.tree.unflatten(structure, with_statistics(norms, leaves, bound.ranges)))


def reference_leaves(target: Any, bound: Bound, reference: Any) -> list[Any]:
    """The leaves of a float reference in the order of the bound parameters; None stands for these themselves.

    Args:
      target: a quantized target.
      bound: the same, bound to its state.
      reference: for NNX a module or its `nnx.state`, for Linen variables, for a function params; of the same shapes.

    Raises: InputError for parameters of another model.
    """
    if reference is None:
        return jax.tree.leaves(bound.params)
    face = {nnx.QuantizedModel: nnx.parameters_of, linen.QuantizedLinen: linen.parameters_of}.get(type(target))
    leaves = jax.tree.leaves(reference if face is None else face(reference))
    wanted = jax.tree.leaves(bound.params)
    if [a.shape for a in leaves] != [a.shape for a in wanted]:
        raise InputError(
            f"The reference has {len(leaves)} parameters and the model {len(wanted)}, or their shapes differ. Give "
            "the float model's own: for NNX nnx.clone(model) made before the first pass, for Linen its variables, for "
            "a function its params."
        )
    return leaves


def as_reference(target: Any, params: Any) -> Any:
    """Parameters of a bound target in the form that `reference_leaves` takes: of Linen without the random keys."""
    return params[0] if isinstance(target, linen.QuantizedLinen) else params


def given_back(
    target: Any, state: Sequence[Any], params: Any, ranges: Mapping[str, Mapping[str, jax.Array]]
) -> tuple[Any, ...]:
    """The state of a target with new parameters and ranges: in place for NNX (an empty tuple), `(variables,)` for
    Linen, `(params, ranges)` for a function.
    """
    norms = target.plan.norms
    ranges = {**ranges, **states_of(norms, jax.tree.leaves(params))} if norms else ranges
    if isinstance(target, nnx.QuantizedModel):
        target.set_parameters(params)
        target.set_ranges(ranges)
        return ()
    if isinstance(target, linen.QuantizedLinen):
        return ({**params[0], linen.RANGES: ranges},)
    return params, ranges
