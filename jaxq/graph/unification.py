"""Whether a part of a model's trace is a given JAX function: the function is traced too, and the two are unified.

A trace is compared from its result back: equations of the same primitive and parameters, commutative operands in
either order, equal constants; each argument of the function is bound to one value of the model. Traces of functions
are cached by shape.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.graph.capture import trace
from jaxq.graph.ir import Aval, Equation, Trace

COMMUTATIVE = frozenset({"add", "mul", "max", "min"})
IGNORED_PARAMS = frozenset({"sharding", "out_sharding"})


class View:
    """A trace with a look-up from each value to the equation that makes it."""

    def __init__(self, recorded: Trace) -> None:
        self.trace = recorded
        self.producer: dict[int, Equation] = {v: eq for eq in recorded.equations for v in eq.outputs}

    def scalar(self, value: int) -> float | None:
        """The number held by a constant of one element, else None."""
        array = self.trace.constants.get(value)
        eq = self.producer.get(value)
        if array is None and eq is not None and eq.primitive in {"convert_element_type", "broadcast_in_dim"}:
            return self.scalar(eq.inputs[0])
        return float(np.asarray(array).reshape(-1)[0]) if array is not None and np.size(array) == 1 else None

    def upstream(self, value: int, primitive: str, through: frozenset[str]) -> Equation | None:
        """The nearest equation of this primitive on the first-input path from `value` through the primitives named."""
        eq = self.producer.get(value)
        while eq is not None and eq.primitive in through:
            eq = self.producer.get(eq.inputs[0])
        return eq if eq is not None and eq.primitive == primitive else None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One reading of an equation: the JAX function that it may be the result of, at the arguments' shapes."""

    key: Hashable
    fn: Callable[..., jax.Array] = dataclasses.field(compare=False)
    arguments: tuple[Aval, ...]
    attrs: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """An op, the primitive its result comes from, and its candidates at an equation with that primitive."""

    kind: str
    root: str
    candidates: Callable[[View, Equation], Iterator[Candidate]]


@dataclasses.dataclass(frozen=True)
class Match:
    """An op found: the values that are its inputs, and its attributes."""

    kind: str
    inputs: tuple[int, ...]
    attrs: Mapping[str, Any]
    call: Callable[..., Sequence[jax.Array]] | None = None


# --- matching -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def recorded(candidate: Candidate) -> View | None:
    """A candidate's trace; None where it does not take arguments of these shapes and dtypes."""
    arguments = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in candidate.arguments]
    # Strict promotion is a matter of the user's own code.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        try:
            return View(trace(lambda *a: [candidate.fn(*a)], arguments))
        except (TypeError, ValueError):  # JAX's, of shapes that do not go together
            return None


def match(view: View, root: int, pattern: View) -> tuple[int, ...] | None:
    """The values of `view` that a function's arguments stand for where it computes the value `root`, else None."""
    binding: dict[int, int] = {}
    if not _unify(pattern, pattern.trace.outputs[0], view, root, binding):
        return None
    return tuple(binding[v] for v in pattern.trace.arguments)


def _unify(pattern: View, p: int, view: View, v: int, binding: dict[int, int]) -> bool:
    if p in binding:
        return binding[p] == v
    if p in pattern.trace.arguments:
        same = pattern.trace.avals[p] == view.trace.avals[v]
        binding[p] = v
        return same
    if p in pattern.trace.constants:
        return v in view.trace.constants and _same_constant(pattern.trace.constants[p], view.trace.constants[v])
    left, right = pattern.producer[p], view.producer.get(v)
    if right is None or not _same_step(left, right):
        return False
    return _unify_inputs(pattern, left, view, right, binding)


def _unify_inputs(pattern: View, left: Equation, view: View, right: Equation, binding: dict[int, int]) -> bool:
    orders = [right.inputs]
    if left.primitive in COMMUTATIVE:
        orders.append(right.inputs[::-1])
    for order in orders:
        attempt = dict(binding)
        if all(_unify(pattern, p, view, v, attempt) for p, v in zip(left.inputs, order, strict=True)):
            binding.update(attempt)
            return True
    return False


def _same_step(left: Equation, right: Equation) -> bool:
    if left.primitive != right.primitive or len(left.inputs) != len(right.inputs):
        return False
    return all(
        _same_param(value, right.params.get(key)) for key, value in left.params.items() if key not in IGNORED_PARAMS
    )


def _same_param(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (bool(np.all(a == b)) or (isinstance(a, float) and a != a and b != b))  # NaN too


def _same_constant(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and bool(np.all(np.asarray(a) == np.asarray(b)))
