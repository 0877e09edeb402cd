"""Functions compiled once for all that compute alike.

A network has many operators that are one computation on other numbers: other weights, scales and zero points. Here the
record of a function (`jaxq.graph.capture`) is compiled with every literal and every captured array as an argument,
under a key of all else. Compiling takes longer than running where a proof runs few examples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.graph.capture import trace
from jaxq.graph.ir import Trace
from jaxq.graph.recent import Recent

MOST = 1024  # compiled functions that are kept
Compiled = Callable[[Sequence[Any], Sequence[Any]], list[jax.Array]]  # (constants, arguments) -> results

_compiled = Recent[Compiled](MOST)


def prepared(
    fn: Callable[..., Sequence[Any]],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    axes: Sequence[int | None] = (),
) -> Callable[..., list[jax.Array]]:
    """`fn`, compiled unless a function that differs from it in numbers alone has been.

    Args:
      fn: a function of arrays that returns a sequence of arrays. It is traced once, here.
      arguments: arrays, or `jax.ShapeDtypeStruct`s, of the shapes and dtypes that it will be called with.
      options: XLA's compiler options.
      axes: for `jax.vmap`, where the function returned is to take batches; () where it is not.

    Returns:
      A function of arrays of these shapes and dtypes, or of batches of them.
    """
    recorded = trace(lambda *a: list(fn(*a)), list(arguments), anonymous=True)
    constants = [np.asarray(value, recorded.avals[v].dtype) for v, value in recorded.constants.items()]
    run = _shared((structure(recorded), tuple(sorted(options.items())), tuple(axes)), recorded, options, tuple(axes))
    return lambda *given: run(constants, given)


def _shared(key: Hashable, recorded: Trace, options: Mapping[str, Any], axes: tuple[int | None, ...]) -> Compiled:
    replayed = _replayed(recorded)
    many = jax.vmap(replayed, (None, axes)) if axes else replayed
    compiled = jax.jit(many, compiler_options=dict(options))
    try:
        return _compiled.get(key, lambda: compiled)
    except TypeError:  # a parameter that cannot be hashed
        return compiled


def structure(recorded: Trace) -> Hashable:
    """All that a record computes but for the values of its constants: values numbered in the order of the record."""
    entering = (*recorded.constants, *recorded.arguments)
    made = (v for eq in recorded.equations for v in eq.outputs)
    numbers = {v: n for n, v in enumerate(dict.fromkeys((*entering, *made)))}
    equations = tuple(
        (eq.primitive, tuple(numbers[v] for v in eq.inputs), len(eq.outputs), _named(eq.params))
        for eq in recorded.equations
    )
    avals = tuple((recorded.avals[v].shape, recorded.avals[v].dtype) for v in entering)
    return len(recorded.constants), avals, equations, tuple(numbers[v] for v in recorded.outputs)


def _named(params: Mapping[str, Any]) -> Hashable:
    return tuple((name, type(value), value) for name, value in sorted(params.items()))


def _replayed(recorded: Trace) -> Compiled:
    """The record as a function of its constants and arguments. It keeps no values of constants."""
    constants, arguments, outputs = tuple(recorded.constants), recorded.arguments, recorded.outputs
    equations = recorded.equations

    def run(held: Sequence[Any], given: Sequence[Any]) -> list[jax.Array]:
        env = dict(zip((*constants, *arguments), (*held, *given), strict=True))
        for eq in equations:
            env.update(zip(eq.outputs, eq.call(*(env[v] for v in eq.inputs)), strict=True))
        return [env[v] for v in outputs]

    return run
