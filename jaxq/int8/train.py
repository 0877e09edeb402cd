"""The one verb of INT8 training: `training(target, how, *example)`, for whatever kind of target."""

from __future__ import annotations

from typing import Any

from jaxq import linen, nnx
from jaxq.errors import InputError
from jaxq.gradients.backward import Backward, read_backward
from jaxq.int8.function import int8_function
from jaxq.int8.linen import int8_linen
from jaxq.int8.nnx import int8_nnx


def training(target: Any, how: Backward | str = "row", *example: Any, **example_kwargs: Any) -> Any:
    """A model that computes its convolutions and matrix products in int8, forward and backward, and nothing else.

    Activations and weights are rounded to int8 as they are used (activations by one scale, weights by one for each
    output channel), gradients by the scheme of `how`. BatchNorm, dropout, checkpoint, scan, cond, vmap and sharding
    work as in the model itself. Parameters stay the model's, in floats, and so do checkpoints.

    Args:
      target: an `nnx.Module` gives an `nnx.Module` (`Int8Model`), a Linen module a Linen module (`Int8Linen`), a
        function `f(params, *inputs)` an `Int8Function(init, apply)`.
      how: a `Backward`, or the name of a shipped one: "row", "row-4bit", "unified", "adaptive", "switchback",
        "tensor-sr", "tensor".
      example: inputs of the shapes to train with, usually one example (`images[:1]`); of a function, parameters first.
        Only shapes and dtypes are read.
      example_kwargs: keyword inputs of the model.

    Returns:
      The model in int8. Schemes with a state ("unified", "adaptive") add it to what is trained, as `gradients` of an
      `Int8Model`, `variables["gradients"]` of Linen, the result of `init` of a function. Its cotangent is the change
      that `jaxq.optim.partition` makes.

    Raises:
      CaptureError: a contraction of integers or complex numbers.
      InputError: no example, or a target of another kind.
      RecipeError: a `how` that cannot be read. UnmatchedRuleError: a rule of it that matches nothing.

    Example:
      >>> model = jaxq.int8.training(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), "row", images[:1])
      >>> optimizer = nnx.Optimizer(model, jaxq.optim.partition(optax.sgd(0.1)), wrt=nnx.Param)
    """
    read = read_backward(how)
    if nnx.takes(target):
        return int8_nnx(target, read, example, example_kwargs)
    if linen.takes(target):
        return int8_linen(target, read, example, example_kwargs)
    if callable(target):
        return int8_function(target, read, example, example_kwargs)
    raise InputError(
        f"jaxq.int8.training takes an nnx.Module, a Linen module or a function f(params, *inputs), not {target!r}."
    )
