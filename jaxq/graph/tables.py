"""Unary functions that TFLite has no op for: what of a trace is a function of one activation, number by number.

Such a function of an int8 tensor is a table of 256 integers, whatever it is made of. A *region* runs from its source,
the one activation that everything in it is computed from, to a result; it is grown from the primitives that TFLite
lacks (`exp`, `abs`, `erf`, comparisons, `select_n` ...) and takes in the arithmetic around them:
`x * tanh(softplus(x))` is one table, not three ops.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.graph.ir import Equation, Trace
from jaxq.graph.patterns import VIEWS
from jaxq.graph.unification import View

# Elementwise primitives that have ops of their own: no reason for a table, but taken in where one stands beside them.
ARITHMETIC = frozenset({"add", "sub", "mul", "div", "neg", "integer_pow", "square"})
OWN = ARITHMETIC | frozenset(
    ["max", "min", "clamp", "logistic", "tanh", "convert_element_type", "copy", "copy_p", "stop_gradient"]
)
# Those that need a table.
LACKING = frozenset({
    "abs", "acos", "acosh", "and", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "cos", "cosh", "eq", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "is_finite", "le", "log", "log1p", "lt", "ne",
    "not", "or", "pow", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "tan", "xor",
})  # fmt: skip
CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "custom_lin", *CUSTOM})
CONSTANT_SHAPES = frozenset({"broadcast_in_dim", "reshape", "convert_element_type", "squeeze"})


@dataclasses.dataclass(frozen=True)
class Region:
    """`[y] = call(*inputs)`, y of the shape of `inputs[0]` and elementwise in it; the others are weights of one number
    each. primitives: those it is made of, in order, for reports.
    """

    inputs: tuple[int, ...]
    primitives: tuple[str, ...]
    call: Callable[..., Sequence[jax.Array]]


class Regions:
    """The regions of a trace. `dynamic` are the values that depend on the model's inputs."""

    def __init__(self, view: View, dynamic: set[int]) -> None:
        self.view, self.dynamic = view, dynamic
        self.parent: dict[int, int | None] = {}  # the nearest value that this one is a function of
        self.depth: dict[int, int] = {}
        self.source: dict[int, int] = {}  # of the values that need a table
        for eq in view.trace.equations:
            if not dynamic.isdisjoint(eq.inputs):
                self._visit(eq)

    def _visit(self, eq: Equation) -> None:
        operands = list(dict.fromkeys(v for v in eq.inputs if v in self.dynamic))
        if not self._elementwise(eq, operands):
            return
        (result,) = eq.outputs
        above = self._common(operands)
        self.parent[result] = above
        self.depth[result] = 0 if above is None else self.depth.get(above, 0) + 1
        if self._has_op(eq) and self.source.keys().isdisjoint(operands):
            return
        source = self._common([self.source.get(v, v) for v in operands])
        if source is not None and jnp.issubdtype(self.view.trace.avals[source].dtype, jnp.floating):
            self.source[result] = self._behind_arithmetic(source)

    def _has_op(self, eq: Equation) -> bool:
        if eq.primitive == "integer_pow":
            return eq.params["y"] == 2
        if eq.primitive == "div":
            return eq.inputs[1] not in self.dynamic or eq.inputs[0] in self.dynamic
        return eq.primitive in OWN

    def _elementwise(self, eq: Equation, operands: Sequence[int]) -> bool:
        if len(eq.outputs) != 1 or not (eq.primitive in OWN | LACKING or _elementwise_call(eq)):
            return False
        shape = self.view.trace.avals[eq.outputs[0]].shape
        constants = [v for v in eq.inputs if v not in self.dynamic]
        same = all(self.view.trace.avals[v].shape == shape for v in operands)
        return same and _numeric(self.view.trace, [*eq.inputs, *eq.outputs]) and all(map(self._one_number, constants))

    def _one_number(self, value: int) -> bool:
        if np.prod(self.view.trace.avals[value].shape) == 1:
            return True
        eq = self.view.producer.get(value)
        return eq is not None and eq.primitive in CONSTANT_SHAPES and self._one_number(eq.inputs[0])

    def _common(self, values: Iterable[int]) -> int | None:
        """The nearest value that all of these are functions of."""
        found: int | None = None
        for i, value in enumerate(values):
            found = value if i == 0 else self._meet(found, value)
        return found

    def _meet(self, a: int | None, b: int | None) -> int | None:
        while a is not None and b is not None and a != b:
            if self.depth.get(a, 0) >= self.depth.get(b, 0):
                a = self.parent.get(a)
            else:
                b = self.parent.get(b)
        return a if a == b else None

    def _behind_arithmetic(self, source: int) -> int:
        """The value before scalar arithmetic: `rsqrt(x + eps)` is a table of x. A mean stays whole: it has an op."""
        eq, above = self.view.producer.get(source), self.parent.get(source)
        while eq is not None and above is not None and eq.primitive in ARITHMETIC and not self._averages(eq):
            source = above
            eq, above = self.view.producer.get(source), self.parent.get(source)
        return source

    def _averages(self, eq: Equation) -> bool:
        return eq.primitive == "div" and self.view.upstream(eq.inputs[0], "reduce_sum", VIEWS) is not None

    def of(self, value: int) -> Region | None:
        """The region that computes `value`, if it needs a table."""
        source = self.source.get(value)
        return None if source is None else self.between(source, value)

    def between(self, source: int, value: int) -> Region:
        """The region from a source to a value that is a function of it."""
        equations = self._equations(source, value)
        made = {v for eq in equations for v in eq.outputs}
        weights = tuple(
            dict.fromkeys(
                v
                for eq in equations
                for v in eq.inputs
                if v != source and v not in made and v not in self.view.trace.constants
            )
        )
        inputs = (source, *weights)
        names = tuple(dict.fromkeys(_name(eq) for eq in equations if eq.primitive not in CONSTANT_SHAPES))
        return Region(inputs, names, Steps(self.view.trace, equations, inputs, value))

    def _equations(self, source: int, value: int) -> list[Equation]:
        wanted, found, seen = [value], [], set()
        while wanted:
            v = wanted.pop()
            eq = self.view.producer.get(v)
            if v == source or v not in self.dynamic or eq is None or v in seen:
                continue
            seen.add(v)
            found.append(eq)
            wanted.extend(eq.inputs)
        return sorted(found, key=lambda eq: eq.outputs[0])


def _numeric(recorded: Trace, values: Sequence[int]) -> bool:
    dtypes = [recorded.avals[v].dtype for v in values]
    return all(jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_) for dtype in dtypes)


def _name(eq: Equation) -> str:
    return str(eq.params.get("name", eq.primitive))


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """The equations of a region, as a function of its inputs."""

    recorded: Trace
    equations: Sequence[Equation]
    inputs: Sequence[int]
    value: int

    def __call__(self, *arguments: jax.Array) -> Sequence[jax.Array]:
        """[the result] of the source and the weights."""
        avals, env = self.recorded.avals, {}
        env |= {v: a.astype(avals[v].dtype) for v, a in zip(self.inputs, arguments, strict=True)}
        for eq in self.equations:
            operands = [env[v] if v in env else self.recorded.constants[v] for v in eq.inputs]
            env.update(zip(eq.outputs, eq.call(*operands), strict=True))
        return [env[self.value]]


def _elementwise_call(eq: Equation) -> bool:
    """Whether a function with a gradient of its own computes number by number."""
    return eq.primitive in CUSTOM and _elementwise_body(_body(eq.params))


def _body(params: Any) -> Any:
    body = next(params[key] for key in ("call_jaxpr", "fun_jaxpr", "jaxpr") if key in params)
    return getattr(body, "jaxpr", body)


def _elementwise_body(body: Any) -> bool:
    return all(_elementwise_step(step) for step in body.eqns)


def _elementwise_step(step: Any) -> bool:
    name = step.primitive.name
    if name in CALLS:
        return _elementwise_body(_body(step.params))
    scalar_broadcast = name == "broadcast_in_dim" and all(np.prod(v.aval.shape) == 1 for v in step.invars)
    return name in OWN | LACKING or scalar_broadcast
