"""Values that are known at capture: what a trace computes from its own constants, such as indices and predicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core
import numpy as np

from jaxq.graph.ir import Equation, with_ones

Params = Mapping[str, Any]


def known(constants: Mapping[int, Any], producer: Mapping[int, Equation], value: int) -> np.ndarray | None:
    """The array that a value holds whatever the model's parameters and inputs are.

    Args:
      constants, producer: of the trace: its literals and captured arrays, and the equation that makes each value.
      value: the value asked for.

    Returns: the array; None where it depends on an argument of the trace, or is itself being traced.
    """
    found: dict[int, np.ndarray | None] = {}

    def of(v: int) -> np.ndarray | None:
        if v not in found:
            eq = producer.get(v)
            if eq is None:
                constant = constants.get(v)
                found[v] = None if constant is None or isinstance(constant, jax.core.Tracer) else np.asarray(constant)
            else:
                inputs = [array for array in map(of, eq.inputs) if array is not None]
                results = _computed(eq, inputs) if len(inputs) == len(eq.inputs) else [None for _ in eq.outputs]
                found.update(zip(eq.outputs, results, strict=True))
        return found[v]

    return of(value)


def _computed(eq: Equation, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """numpy's results where it has the primitive: JAX would compile each."""
    if eq.primitive in PRIMITIVES:
        return [PRIMITIVES[eq.primitive](eq.params, *inputs)]
    with jax.ensure_compile_time_eval():
        return [np.asarray(result) for result in eq.call(*inputs)]


def _elementwise(fn: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda params, *arrays: fn(*arrays)


def _broadcast(params: Params, x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x.reshape(with_ones(params, x.shape)), params["shape"])


def _reshaped(params: Params, x: np.ndarray) -> np.ndarray:
    return x.reshape(params["new_sizes"])


def _iota(params: Params) -> np.ndarray:
    shape, axis = params["shape"], params["dimension"]
    ones = [-1 if a == axis else 1 for a in range(len(shape))]
    return np.broadcast_to(np.arange(shape[axis], dtype=params["dtype"]).reshape(ones), shape)


# What index arithmetic is made of.
PRIMITIVES: Mapping[str, Callable[..., np.ndarray]] = {
    "add": _elementwise(np.add),
    "and": _elementwise(np.bitwise_and),
    "broadcast_in_dim": _broadcast,
    "clamp": lambda params, low, x, high: np.clip(x, low, high),
    "concatenate": lambda params, *arrays: np.concatenate(arrays, params["dimension"]),
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
    "eq": _elementwise(np.equal),
    "ge": _elementwise(np.greater_equal),
    "gt": _elementwise(np.greater),
    "iota": _iota,
    "le": _elementwise(np.less_equal),
    "lt": _elementwise(np.less),
    "max": _elementwise(np.maximum),
    "min": _elementwise(np.minimum),
    "mul": _elementwise(np.multiply),
    "ne": _elementwise(np.not_equal),
    "reshape": _reshaped,
    "select_n": lambda params, which, *cases: np.choose(which.astype(np.int32), cases),
    "sub": _elementwise(np.subtract),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
}
