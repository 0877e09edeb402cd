"""Along which axes a weight value is one number repeated, whatever the parameters are.

A bias tiled over the batch, or a recurrent layer's first state times its kernel, has the shape of an activation and is
still a vector over channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxq.graph.ir import Equation
from jaxq.graph.unification import View

Axes = frozenset[int]

ELEMENTWISE = frozenset({
    "abs", "add", "convert_element_type", "copy", "cos", "div", "erf", "exp", "integer_pow", "log", "log1p",
    "logistic", "max", "min", "mul", "neg", "pow", "rsqrt", "select_n", "sign", "sin", "sqrt", "square",
    "stop_gradient", "sub", "tanh",
})  # fmt: skip


class Varying:
    """The axes of each value of a trace along which its numbers may differ."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._known: dict[int, Axes] = {}

    def axes(self, value: int) -> Axes:
        """The axes along which `value` may vary; never one of size 1."""
        if value not in self._known:
            sizes = self.view.trace.avals[value].shape if value in self.view.trace.avals else ()
            self._known[value] = frozenset(a for a in self._axes(value) if sizes[a] != 1)
        return self._known[value]

    def _axes(self, value: int) -> Axes:
        every = frozenset(range(len(self.view.trace.avals[value].shape)))
        constant = self.view.trace.constants.get(value)
        if constant is not None:
            return every if isinstance(constant, jax.core.Tracer) else _of_array(constant)
        eq = self.view.producer.get(value)
        if eq is None:
            return every
        if eq.primitive in ELEMENTWISE:
            return self._elementwise(eq)
        rule = RULES.get(eq.primitive)
        return every if rule is None else rule(self, eq)

    def _elementwise(self, eq: Equation) -> Axes:
        return frozenset().union(*(self.axes(v) for v in eq.inputs))

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of a value of the trace."""
        return self.view.trace.avals[value].shape


def _of_array(constant: Any) -> Axes:
    if np.size(constant) == 0 or jnp.issubdtype(jnp.result_type(constant), jax.dtypes.extended):
        return frozenset(range(np.ndim(constant)))
    array = np.asarray(constant)
    return frozenset(a for a in range(array.ndim) if np.any(array != np.take(array, [0], axis=a)))


def _broadcast(varying: Varying, eq: Equation) -> Axes:
    dimensions = eq.params["broadcast_dimensions"]
    return frozenset(int(dimensions[a]) for a in varying.axes(eq.inputs[0]))


def _transpose(varying: Varying, eq: Equation) -> Axes:
    permutation = [int(a) for a in eq.params["permutation"]]
    return frozenset(permutation.index(a) for a in varying.axes(eq.inputs[0]))


def _reshape(varying: Varying, eq: Equation) -> Axes:
    """Axes that stand alone, with the same numbers before them, keep what they were; the others may vary."""
    before, after = varying.shape(eq.inputs[0]), varying.shape(eq.outputs[0])
    constant = {a for a in range(len(before)) if a not in varying.axes(eq.inputs[0])}
    same = {(math.prod(before[:a]), before[a]) for a in constant}
    return frozenset(a for a in range(len(after)) if (math.prod(after[:a]), after[a]) not in same)


def _slice(varying: Varying, eq: Equation) -> Axes:
    return varying.axes(eq.inputs[0])


def _concatenate(varying: Varying, eq: Equation) -> Axes:
    axes = frozenset().union(*(varying.axes(v) for v in eq.inputs))
    return axes | {int(eq.params["dimension"])}


def _reduced(varying: Varying, eq: Equation) -> Axes:
    gone = [int(a) for a in eq.params["axes"]]
    return frozenset(a - sum(b < a for b in gone) for a in varying.axes(eq.inputs[0]) if a not in gone)


def _dot_general(varying: Varying, eq: Equation) -> Axes:
    """The free axes of both sides, in order, behind the axes of the batch."""
    (left_dims, right_dims), (left_batch, right_batch) = eq.params["dimension_numbers"]
    axes, offset = set[int](), len(left_batch)
    for side, (own, other) in enumerate(zip(left_batch, right_batch, strict=True)):
        if own in varying.axes(eq.inputs[0]) or other in varying.axes(eq.inputs[1]):
            axes.add(side)
    for value, dims, batch in ((eq.inputs[0], left_dims, left_batch), (eq.inputs[1], right_dims, right_batch)):
        free = [a for a in range(len(varying.shape(value))) if a not in (*dims, *batch)]
        axes.update(offset + i for i, a in enumerate(free) if a in varying.axes(value))
        offset += len(free)
    return frozenset(axes)


# The primitives that keep some axis uniform, beside the elementwise ones.
RULES: Mapping[str, Callable[[Varying, Equation], Axes]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dot_general": _dot_general,
    "expand_dims": _reshape,
    "reduce_max": _reduced,
    "reduce_min": _reduced,
    "reduce_prod": _reduced,
    "reduce_sum": _reduced,
    "reshape": _reshape,
    "slice": _slice,
    "split": _slice,
    "squeeze": _reshape,
    "transpose": _transpose,
}
