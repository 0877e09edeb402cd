"""Which face serves a target: NNX, Linen, or a plain function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxq import linen, nnx
from jaxq.errors import InputError
from jaxq.quantize import Bound, QuantizedFunction, bind_function, quantize_function


def face_of(target: Any) -> Callable[..., Any]:
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
