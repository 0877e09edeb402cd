"""Between which numbers an int32 of a graph under construction lies, whatever the model's inputs are.

Interval arithmetic (Ramon E. Moore, "Interval Analysis", 1966) over the ops that make a value: a mask is 0 or 1, a sum
of n of them lies in [0, n]. What may wrap around is unbounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Op
from jaxq.graph.known import known

Interval = tuple[float, float]  # both ends included
ANY: Interval = (-math.inf, math.inf)
INT32 = np.iinfo(np.int32)

# Ops that keep or choose among their inputs' numbers; the first is no number of a SELECT.
KEEPING = frozenset(
    {"BROADCAST_TO", "CONCATENATION", "REDUCE_MAX", "REDUCE_MIN", "RESHAPE", "REVERSE_V2", "SELECT", "SLICE"}
    | {"SPLIT", "STRIDED_SLICE", "TRANSPOSE"}
)


def bounds(builder: Builder, value: int) -> Interval:
    """The interval of an int32 value."""
    value = builder.resolve(value)
    if value in builder.choices:
        choice = builder.choices[value]
        return min(choice[1:]), max(choice[1:])
    if value not in builder.dynamic:
        return _constant(builder, value)
    op = builder.made.get(value)
    found = ANY if op is None else _of(builder, op)
    return found if INT32.min <= found[0] and found[1] <= INT32.max else _one_sided(op, found)


def _one_sided(op: Op | None, found: Interval) -> Interval:
    """A maximum or minimum has one end even where the other is unknown; all else may have wrapped around."""
    return found if op is not None and op.attrs.get("operator") in ("MAXIMUM", "MINIMUM") else ANY


def _constant(builder: Builder, value: int) -> Interval:
    array = known(builder.view.trace.constants, builder.view.producer, value)
    if array is None:
        array = _made(builder, value)
    return ANY if array is None or not array.size else (float(array.min()), float(array.max()))


def _made(builder: Builder, value: int) -> np.ndarray | None:
    """A constant that a rule has made of nothing."""
    eq = next((eq for eq in builder.weights if value in eq.outputs and not eq.inputs), None)
    return None if eq is None else np.asarray(eq.call()[0])


def _of(builder: Builder, op: Op) -> Interval:
    if op.kind in ("ARG_MAX", "ARG_MIN"):
        return 0.0, builder.shape(op.inputs[0])[op.attrs["axis"]] - 1.0
    read = [bounds(builder, v) for v in op.inputs if builder.avals[v].dtype == np.int32]
    if op.kind in KEEPING and read:
        return min(low for low, _ in read), max(high for _, high in read)
    if op.kind == "PAD":
        return min(read[0][0], 0.0), max(read[0][1], 0.0)
    if op.kind in ("CUMSUM", "SUM"):
        return _sum(builder, op, read[0])
    rule = RULES.get(op.attrs.get("operator", op.kind))
    return ANY if rule is None or len(read) != 2 else rule(*read)


def _sum(builder: Builder, op: Op, each: Interval) -> Interval:
    shape = builder.shape(op.inputs[0])
    if op.kind == "SUM":
        count = math.prod(shape[axis] for axis in op.attrs["axes"])
        return (count * each[0], count * each[1]) if count else (0.0, 0.0)
    count = shape[op.attrs["axis"]]
    return min(each[0], count * each[0]), max(each[1], count * each[1])


def _products(a: Interval, b: Interval) -> Interval:
    ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
    return min(ends), max(ends)


def _quotient(a: Interval, b: Interval) -> Interval:
    """By a positive constant, rounded either way."""
    return (math.floor(a[0] / b[0]), math.ceil(a[1] / b[0])) if b[0] == b[1] > 0 and ANY[1] not in map(abs, a) else ANY


def _modulo(a: Interval, b: Interval) -> Interval:
    return (0.0, b[1] - 1.0) if b[0] > 0 and math.isfinite(b[1]) else ANY


RULES: Mapping[str, Callable[[Interval, Interval], Interval]] = {
    "ADD": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "DIV": _quotient,
    "FLOOR_DIV": _quotient,
    "FLOOR_MOD": _modulo,
    "MAXIMUM": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "MINIMUM": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "MUL": _products,
    "SUB": lambda a, b: (a[0] - b[1], a[1] - b[0]),
}
