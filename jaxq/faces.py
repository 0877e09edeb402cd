"""Which face serves a target. Flax is asked for only when the target could be Flax's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxq.errors import InputError
from jaxq.quantize import Bound, QuantizedFunction, bind_function, quantize_function


def face_of(target: Any) -> Callable[..., Any]:
    """The function `(target, core, example, example_kwargs) -> quantized` for this kind of target."""
    from flax import linen, nnx

    from jaxq.linen import quantize_linen
    from jaxq.nnx import quantize_nnx

    if isinstance(target, nnx.Module):
        return quantize_nnx
    if isinstance(target, linen.Module):
        return quantize_linen
    if callable(target):
        return quantize_function
    raise TypeError(f"jaxq.quantize takes an nnx.Module, a Linen module or a function f(params, *inputs), not {type(target)}.")


def bind(target: Any, *state: Any) -> Bound:
    """A quantized target with its state: none for NNX, `variables` for Linen, `params, ranges` for a function."""
    from jaxq.linen import QuantizedLinen, bind_linen
    from jaxq.nnx import QuantizedModel, bind_nnx

    faces = ((QuantizedModel, bind_nnx, ""), (QuantizedLinen, bind_linen, "variables"))
    for kind, binder, wanted in (*faces, (QuantizedFunction, bind_function, "params, ranges")):
        if isinstance(target, kind):
            if len(state) != len(wanted.split()):
                raise InputError(f"After a {kind.__name__} come {len(wanted.split())} arguments ({wanted}), not {len(state)}.")
            return binder(target, *state)
    raise InputError(f"{type(target).__name__} is not quantized; take the result of jaxq.quantize(model, ...).")
