"""Graphs of one function at several batch sizes, with the same ops and names at each.

JAX records a function for given shapes, and an axis of size 1, or two axes of one size, can hide what an equation does:
`zeros[1, C] + b[C]` is a vector over channels, `zeros[7, C] + b[C]` a matrix. The structure of the graph is therefore
taken from a *generic* batch, a prime that divides no other size. A graph recorded at the batch of a call serves where
it has that structure; else it is derived from two generic ones: every size in them is `a * batch + b`, and two
points give a and b.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import BatchStatisticsError
from jaxq.graph.ir import Aval, Equation, Graph, Op
from jaxq.graph.mixing import Place, places_of

LEAST_BATCH = 11  # the smallest generic batch size


class Sized(NamedTuple):
    """A graph and the batch size that it was recorded at."""

    graph: Graph
    batch: int


class BatchedGraphs:
    """The graphs of one function. `record(batch)` captures the function with inputs of that batch size.

    A function that mixes the examples of a batch is refused (`jaxq.graph.mixing`), where it takes batches at all.

    Attributes:
      results: by the number of a result that depends on the examples, where it holds them, if that is known; set with
        the first graph.
    """

    def __init__(self, record: Callable[[int], Graph]) -> None:
        self._record = record
        self._generic: Sized | None = None
        self._is_fixed = False
        self.results: Mapping[int, Place] = {}

    def at(self, batch: int) -> Graph:
        """The graph for a batch size. A function that takes one batch size only has the graph recorded for it."""
        recorded = Sized(self._record(batch), batch)
        generic = self._structure(recorded)
        if generic is None or same_structure(generic, recorded):
            return recorded.graph
        return self._derived(generic, recorded) or recorded.graph

    def _structure(self, recorded: Sized) -> Sized | None:
        if self._generic is None and not self._is_fixed:
            self._generic = self._at_generic(LEAST_BATCH, recorded)
            places = None if self._generic is None else _places(self._generic, recorded)
            if places is None:
                self._generic, self._is_fixed, places = None, True, dict.fromkeys(recorded.graph.activations)
            outputs = (self._generic or recorded).graph.outputs
            self.results = {i: places[v] for i, v in enumerate(outputs) if v in places}
        return self._generic

    def _at_generic(self, least: int, *known: Sized) -> Sized | None:
        """The graph at a generic batch of at least this size; None where the function does not take it."""
        batch = generic_batch(least, *(sized.graph for sized in known))
        try:
            found = Sized(self._record(batch), batch)
        except Exception:  # whatever the user's function raises: it has run at its own batch, and takes no other
            return None
        return found if all(_keeps_batch(sized, found) for sized in known) else None

    def _derived(self, generic: Sized, recorded: Sized) -> Graph | None:
        first = self._at_generic(max(LEAST_BATCH, recorded.batch + 1), generic, recorded)
        second = None if first is None else self._at_generic(first.batch + 1, generic, recorded)
        if first is None or second is None or not same_structure(generic, first):
            return None
        return derived(first, second, recorded.batch)


def _keeps_batch(first: Sized, second: Sized, leading: bool = False) -> bool:
    """Whether results that have the batch of the first graph have that of the second: no size is written by hand.

    They may have it along another axis, unless `leading`: [1, N, C] has a leading 1 that is no batch.
    """
    ends = zip(first.graph.outputs, second.graph.outputs, strict=False)
    shapes = ((first.graph.avals[v].shape, second.graph.avals[w].shape) for v, w in ends)
    return all(
        b[:1] == (second.batch,) if leading else any(d % second.batch == 0 for d in b)
        for a, b in shapes
        if a[:1] == (first.batch,)
    )


def _places(generic: Sized, recorded: Sized) -> dict[int, Place] | None:
    """Where the values of a generic graph hold the examples; None where the function takes its own batch alone.

    Raises BatchStatisticsError for one that mixes the examples. One with a size written by hand (`x.reshape(2, -1)`)
    seems to, at another batch.
    """
    try:
        return places_of(*generic)
    except BatchStatisticsError:
        if _keeps_batch(recorded, generic, leading=True):
            raise
        return None


def generic_batch(least: int, *graphs: Graph) -> int:
    """The smallest prime from `least` on that divides no size of an axis in these graphs."""
    sizes = {d for graph in graphs for aval in graph.avals.values() for d in aval.shape if d}
    return next(n for n in itertools.count(least) if _is_prime(n) and all(d % n for d in sizes))


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


# --- the same structure ---------------------------------------------------------------------------------------------


def same_structure(first: Sized, second: Sized) -> bool:
    """Whether two graphs have the same ops in the same order, with the same names, but for sizes of the batch."""
    a, b = first.graph, second.graph
    if len(a.ops) != len(b.ops) or len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
        return False
    values = dict(zip(a.inputs, b.inputs, strict=True))
    batches = first.batch, second.batch
    for one, other in zip(a.ops, b.ops, strict=True):
        if not _same_op(one, other, values, batches) or not _same_weights(first, second, one, other, values):
            return False
        values.update(zip(one.outputs, other.outputs, strict=True))
    return all(values.get(v) == w for v, w in zip(a.outputs, b.outputs, strict=True) if v in values)


def _same_op(a: Op, b: Op, values: Mapping[int, int], batches: tuple[int, int]) -> bool:
    if (a.kind, a.name, len(a.inputs), len(a.outputs)) != (b.kind, b.name, len(b.inputs), len(b.outputs)):
        return False
    activations = set(values.values())
    pairs = zip(a.inputs, b.inputs, strict=True)
    wired = all(values[v] == w if v in values else w not in activations for v, w in pairs)
    return wired and _agree(dict(a.attrs), dict(b.attrs), *batches)


def _same_weights(first: Sized, second: Sized, a: Op, b: Op, values: Mapping[int, int]) -> bool:
    pairs = [(v, w) for v, w in zip((*a.inputs, *a.outputs), (*b.inputs, *b.outputs), strict=True) if v not in values]
    avals = ((first.graph.avals[v], second.graph.avals[w]) for v, w in pairs)
    return all(x.dtype == y.dtype and _agree(x.shape, y.shape, first.batch, second.batch) for x, y in avals)


def _agree(a: Any, b: Any, first: int, second: int) -> bool:
    """Whether two attributes are equal but for sizes, which are constant or a multiple of the batch or next to it."""
    if isinstance(a, tuple | list):
        same_length = isinstance(b, tuple | list) and len(a) == len(b)
        return same_length and all(_agree(x, y, first, second) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_agree(a[k], b[k], first, second) for k in a)
    if _is_size(a) and _is_size(b):
        return a == b or a * second == b * first or a - b == first - second
    return callable(a) or bool(np.all(a == b))


def _is_size(x: Any) -> TypeGuard[int]:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


# --- a batch between ------------------------------------------------------------------------------------------------


class _NotLinear(Exception):
    """Something in two graphs differs that is no size."""


def derived(first: Sized, second: Sized, batch: int) -> Graph | None:
    """The graph at a batch smaller than those of two generic graphs; None where these differ in more than sizes.

    Weight arithmetic stays at the first batch, and what an op reads of it is cut to the batch.
    """
    a, b = first.graph, second.graph
    if not _same_numbers(a, b):
        return None
    between = _Between(first.batch, second.batch, batch)
    try:
        avals = {v: Aval(between.of(aval.shape, b.avals[v].shape), aval.dtype) for v, aval in a.avals.items()}
        attrs = [between.of(dict(x.attrs), dict(y.attrs)) for x, y in zip(a.ops, b.ops, strict=True)]
    except _NotLinear:
        return None
    return _cut(a, avals, attrs)


def _same_numbers(a: Graph, b: Graph) -> bool:
    """Whether two graphs were built in the same steps, so that their values have the same numbers."""
    same_ops = [(op.kind, op.name, op.inputs, op.outputs) for op in a.ops] == [
        (op.kind, op.name, op.inputs, op.outputs) for op in b.ops
    ]
    same_weights = [(eq.primitive, eq.inputs, eq.outputs) for eq in a.weights] == [
        (eq.primitive, eq.inputs, eq.outputs) for eq in b.weights
    ]
    ends = (a.inputs, a.outputs, a.avals.keys()) == (b.inputs, b.outputs, b.avals.keys())
    return same_ops and same_weights and ends


class _Between(NamedTuple):
    """Sizes at a batch, from their values at two others."""

    first: int
    second: int
    batch: int

    def of(self, a: Any, b: Any) -> Any:
        """What is `a` at the first batch and `b` at the second."""
        if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
            return type(a)(self.of(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
            return {k: self.of(a[k], b[k]) for k in a}
        if _is_size(a) and _is_size(b) and a != b:
            slope, rest = divmod(b - a, self.second - self.first)
            if rest:
                raise _NotLinear
            return int(a + slope * (self.batch - self.first))
        if not callable(a) and not np.all(a == b):
            raise _NotLinear
        return a


def _cut(graph: Graph, avals: dict[int, Aval], attrs: Sequence[Mapping[str, Any]]) -> Graph:
    """`graph` with these avals and attributes."""
    numbers = itertools.count(max(avals) + 1)
    weights, cut = [*graph.weights], dict[int, int]()

    def weight(value: int) -> int:
        if value in graph.activations or avals[value] == graph.avals[value]:
            return value
        if value not in cut:
            cut[value] = next(numbers)
            avals[cut[value]] = avals[value]
            call = functools.partial(_prefix, shape=avals[value].shape)
            weights.append(Equation("weight", (value,), (cut[value],), {}, call))
        return cut[value]

    ops = tuple(
        dataclasses.replace(
            op, inputs=tuple(map(weight, op.inputs)), attrs=found, call=_resized_call(op, graph.avals, avals)
        )
        for op, found in zip(graph.ops, attrs, strict=True)
    )
    outputs = tuple(map(weight, graph.outputs))
    whole = {v: graph.avals[v] for eq in graph.weights for v in (*eq.inputs, *eq.outputs)}
    return dataclasses.replace(graph, avals={**avals, **whole}, weights=tuple(weights), ops=ops, outputs=outputs)


def _prefix(array: Any, shape: tuple[int, ...]) -> list[Any]:
    return [array[tuple(slice(size) for size in shape)]]


def _resized_call(op: Op, recorded: Mapping[int, Aval], avals: Mapping[int, Aval]) -> Callable[..., Any] | None:
    """The function of an op at the sizes of `avals`: as recorded where it takes them, else on the recorded batch."""
    if op.call is None or all(recorded[v] == avals[v] for v in (*op.inputs, *op.outputs)):
        return op.call
    call, wanted = op.call, [avals[v].shape for v in op.outputs]
    try:
        found = jax.eval_shape(call, *(jax.ShapeDtypeStruct(avals[v].shape, avals[v].dtype) for v in op.inputs))
        if [f.shape for f in found] == wanted:
            return call
    except (TypeError, ValueError):  # a shape is written in it
        pass
    shapes = [recorded[v].shape for v in op.inputs]

    def on_recorded_batch(*arrays: Any) -> list[Any]:
        grown = [_repeated(jnp.asarray(x), shape) for x, shape in zip(arrays, shapes, strict=True)]
        return [_prefix(y, shape)[0] for y, shape in zip(call(*grown), wanted, strict=True)]

    return on_recorded_batch


def _repeated(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """`x` with its axes repeated up to a shape."""
    for axis, size in enumerate(shape):
        if x.shape[axis] != size:
            x = jnp.take(x, np.arange(size) % x.shape[axis], axis=axis)
    return x


def batched_inputs(example: Sequence[Sequence[int]], shapes: Sequence[Sequence[int]]) -> tuple[bool, ...]:
    """Which inputs of a call have an entry for each example along their first axis.

    Args:
      example: the shape of each input of the example.
      shapes: the shape of each input of the call.

    Those that have another number of entries than in the example do; where none has, the first input with an axis, and
    each that is as long. An input that keeps its length while others change it (a table, a temperature) has no batch.
    """
    known, given = ([tuple(shape[:1]) for shape in ends] for ends in (example, shapes))
    pairs = list(zip(known, given, strict=True))
    first = next((pair for pair in pairs if pair[0]), ((), ()))
    size = next((b for a, b in pairs if a != b), first[1])
    return tuple(b == size != () and (a != b or a == first[0]) for a, b in pairs)
