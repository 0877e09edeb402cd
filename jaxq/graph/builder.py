"""The graph under construction: ops and weight arithmetic appended in order, values numbered, aliases resolved.

The one mutable object between `Trace` and `Graph`; the raising and the folding share it and nobody else sees it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.graph.ir import REARRANGED, Aval, Equation, Op, Trace
from jaxq.graph.unification import View
from jaxq.graph.uniform import Varying

# Primitives that make zeros of zeros.
KEEP_ZERO = frozenset(
    {"add", "broadcast_in_dim", "concatenate", "convert_element_type", "neg", "pad", "reduce_sum", "reshape", "slice"}
    | {"split", "squeeze", "sub", "transpose"}
)
MOVES = REARRANGED | {"BROADCAST_TO"}
# Ops whose result holds numbers of the first operand, of whatever type.
MOVING = MOVES | {"CONCATENATION", "PAD", "REVERSE_V2", "SLICE", "SPLIT", "STRIDED_SLICE"}
# Ops that are written once where a model computes them twice, as normalisation layers do.
REPEATABLE = REARRANGED | {"MEAN", "SUB"}
FLOAT32 = np.dtype(np.float32)


class Builder:
    """Draft of a graph. `inputs` are the values of the activations that enter it."""

    def __init__(self, recorded: Trace, inputs: Sequence[int]) -> None:
        self.view = View(recorded)
        self.varying = Varying(self.view)
        self.avals: dict[int, Aval] = dict(recorded.avals)
        self.dynamic: set[int] = set(inputs)
        self.weights: list[Equation] = []
        self.ops: list[Op] = []
        self.made: dict[int, Op] = {}
        self._same: dict[Hashable, tuple[int, ...]] = {}
        self.alias: dict[int, int] = {}
        self.choices: dict[int, Any] = {}  # of the values that are one of two numbers: masks.Choice
        self.graph_inputs = frozenset(inputs)
        self._next = max(self.avals) + 1
        self.zeros: set[int] = set()  # what is computed from zero alone, such as the first state of a recurrent layer
        for eq in recorded.equations:
            if self._vanishes(eq):
                self.zeros.update(eq.outputs)
            elif self.dynamic.intersection(eq.inputs):
                empty = {v for v in eq.outputs if 0 in self.shape(v)}
                self.zeros.update(empty)  # an empty array depends on nothing
                self.dynamic.update(set(eq.outputs) - empty)

    def _vanishes(self, eq: Equation) -> bool:
        if eq.primitive in {"mul", "dot_general"}:
            return any(map(self.is_zero, eq.inputs))
        return eq.primitive in KEEP_ZERO and bool(eq.inputs) and all(map(self.is_zero, eq.inputs))

    def is_zero(self, value: int) -> bool:
        """Whether a value is zero whatever the model's inputs are."""
        return value in self.zeros or self.view.scalar(value) == 0.0

    def resolve(self, value: int) -> int:
        """The value that `value` is another name of."""
        while value in self.alias:
            value = self.alias[value]
        return value

    def shape(self, value: int) -> tuple[int, ...]:
        """Static shape of a value."""
        return self.avals[value].shape

    def new(self, shape: Sequence[int], dtype: np.dtype = FLOAT32, *, dynamic: bool = True) -> int:
        """A fresh value."""
        value = self._next
        self._next += 1
        self.avals[value] = Aval(tuple(int(d) for d in shape), np.dtype(dtype))
        if dynamic:
            self.dynamic.add(value)
        return value

    def weight(
        self,
        fn: Callable[..., Any],
        inputs: Sequence[int],
        shape: Sequence[int],
        *,
        rounds_once: bool = True,
        dtype: np.dtype = FLOAT32,
    ) -> int:
        """A new weight value `fn(*inputs)`: arithmetic on parameters, differentiable, a constant at export.

        `fn` works on numpy and on JAX arrays. `rounds_once`: each number of the result is one float operation, so
        that the two agree in every bit; false for a sum.
        """
        value = self.new(shape, dtype, dynamic=False)
        primitive = "weight" if rounds_once else "weight_sum"
        self.weights.append(Equation(primitive, tuple(inputs), (value,), {}, lambda *a: [fn(*a)]))
        return value

    def full(self, number: float, shape: Sequence[int], dtype: np.dtype = FLOAT32) -> int:
        """A weight value filled with one number."""
        return self.weight(lambda: np.full(tuple(shape), number, dtype), (), shape, dtype=dtype)

    def held(self, value: int) -> np.dtype:
        """The type of a value here: real numbers are float32, a mask and an index keep theirs."""
        dtype = self.avals[value].dtype
        return FLOAT32 if jnp.issubdtype(dtype, jnp.floating) else dtype

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        attrs: Mapping[str, Any],
        source: str,
        *,
        shape: Sequence[int] | None = None,
        outputs: Sequence[int] = (),
        call: Callable[..., Sequence[jax.Array]] | None = None,
    ) -> int:
        """Append an op that makes `outputs`, or one fresh value of `shape`; returns its first output."""
        inputs = tuple(self.resolve(v) for v in inputs)
        again = self._same.get(key) if (key := self._key(kind, inputs, attrs, call)) else None
        if again is not None:
            for output, other in zip(outputs, again, strict=bool(outputs)):
                self.becomes(output, other)
            return again[0]
        if not outputs:
            outputs = (self.new(shape if shape is not None else self.shape(inputs[0]), self._dtype(kind, inputs)),)
        outs = tuple(outputs)
        if key:
            self._same[key] = outs
        op = Op(kind, "", inputs, outs, dict(attrs), source, call)
        self.ops.append(op)
        self.made.update(dict.fromkeys(outs, op))
        return outs[0]

    def _dtype(self, kind: str, inputs: Sequence[int]) -> np.dtype:
        """The type of what an op makes: what is moved keeps its own."""
        return self.held(inputs[0]) if kind in MOVING else FLOAT32

    def _key(self, kind: str, inputs: tuple[int, ...], attrs: Mapping[str, Any], call: Any) -> Hashable:
        """What makes an op the same as another: all that it reads and does. None for ops that are never the same."""
        if call is not None or kind not in REPEATABLE:
            return None
        return (kind, inputs, tuple(sorted(attrs.items())))

    def becomes(self, value: int, other: int) -> None:
        """Make `value` another name of `other`."""
        if value != other:
            self.alias[value] = other

    def reshape(self, value: int, shape: Sequence[int], source: str) -> int:
        """`value` in another shape: itself, a RESHAPE op, or a weight."""
        shape = tuple(int(d) for d in shape)
        if self.shape(value) == shape:
            return value
        if value not in self.dynamic:
            return self.weight(lambda w: w.reshape(shape), (value,), shape, dtype=self.held(value))
        value = self.resolve(value)
        if (before := self.made.get(value)) is not None and before.kind == "RESHAPE":
            return self.reshape(before.inputs[0], shape, source)
        return self.op("RESHAPE", (value,), {"shape": shape}, source, shape=shape)

    def transpose(self, value: int, perm: Sequence[int], source: str) -> int:
        """`value` with its axes permuted: itself, a TRANSPOSE op, or a weight."""
        perm = tuple(int(d) for d in perm)
        if perm == tuple(range(len(perm))):
            return value
        shape = tuple(self.shape(value)[d] for d in perm)
        if value not in self.dynamic:
            return self.weight(lambda w: w.transpose(perm), (value,), shape, dtype=self.held(value))
        value = self.resolve(value)
        if (before := self.made.get(value)) is not None and before.kind == "TRANSPOSE":
            return self.transpose(before.inputs[0], [before.attrs["perm"][d] for d in perm], source)
        moved = [d for d in perm if self.shape(value)[d] != 1]
        if moved == sorted(moved):  # only axes of size 1 change places
            return self.reshape(value, shape, source)
        return self.op("TRANSPOSE", (value,), {"perm": perm}, source, shape=shape)


def replace(op: Op, **changes: Any) -> Op:
    """`op` with some fields changed."""
    return dataclasses.replace(op, **changes)
