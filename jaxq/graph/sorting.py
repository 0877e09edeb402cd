"""Sorts and the largest numbers of a row, by TFLite's one sorting operator, TOPK_V2, over the last axis.

The kernel puts equal numbers in the order of their places, as JAX does, so that the places are exact too. Ascending
and stable is the reverse of descending on the reversed row: the last of equal numbers comes first there.
"""

from __future__ import annotations

import numpy as np

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation
from jaxq.graph.known import known
from jaxq.graph.reductions import is_number

INT32 = np.dtype(np.int32)


def top_k(builder: Builder, eq: Equation) -> bool:
    """The k largest numbers and their places; of one number REDUCE_MAX and ARG_MAX, which more targets have."""
    shape = builder.shape(eq.inputs[0])
    axis, count = int(eq.params.get("axis", -1)) % len(shape), int(eq.params["k"])
    if not is_number(builder, eq.inputs[0]) or not count:
        return False
    if count == 1:
        found = _largest(builder, eq, axis)
    else:
        found = tuple(_back(builder, v, axis, eq) for v in _top(builder, _last(builder, eq, axis), count, eq))
    for value, other in zip(eq.outputs, found, strict=True):
        builder.becomes(value, builder.reshape(other, builder.shape(value), eq.source))
    return True


def sort(builder: Builder, eq: Equation) -> bool:
    """A sort of one array, alone or with the places that its numbers had (`jnp.argsort`)."""
    keys, *carried = eq.inputs
    axis, shape = int(eq.params["dimension"]), builder.shape(keys)
    steps = [_steps(builder, v, axis) for v in carried]
    if not is_number(builder, keys) or keys not in builder.dynamic or None in steps or not shape[axis]:
        return False
    x, count = _last(builder, eq, axis), shape[axis]
    values, places = _top(builder, _reversed(builder, x, eq) if carried else x, count, eq)
    builder.becomes(eq.outputs[0], _back(builder, _reversed(builder, values, eq), axis, eq))
    for value, step in zip(eq.outputs[1:], steps, strict=True):
        assert step is not None
        found = _affine(builder, _reversed(builder, places, eq), count, *step, eq)
        builder.becomes(value, _back(builder, found, axis, eq))
    return True


def _largest(builder: Builder, eq: Equation, axis: int) -> tuple[int, int]:
    shape = builder.shape(eq.inputs[0])
    one = (*shape[:axis], *shape[axis + 1 :])
    most, place = builder.new(one, builder.held(eq.inputs[0])), builder.new(one, INT32)
    builder.op("REDUCE_MAX", eq.inputs, {"axes": (axis,), "keepdims": False}, eq.source, outputs=(most,))
    builder.op("ARG_MAX", eq.inputs, {"axis": axis}, eq.source, outputs=(place,))
    return most, place


def _top(builder: Builder, x: int, count: int, eq: Equation) -> tuple[int, int]:
    shape = (*builder.shape(x)[:-1], count)
    values, places = builder.new(shape, builder.held(x)), builder.new(shape, INT32)
    builder.op("TOPK_V2", (x,), {"k": count}, eq.source, outputs=(values, places))
    return values, places


def _swapped(rank: int, axis: int) -> list[int]:
    perm = list(range(rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    return perm


def _last(builder: Builder, eq: Equation, axis: int) -> int:
    """The operand with this axis as its last."""
    x = builder.resolve(eq.inputs[0])
    return builder.transpose(x, _swapped(len(builder.shape(x)), axis), eq.source)


def _back(builder: Builder, value: int, axis: int, eq: Equation) -> int:
    return builder.transpose(value, _swapped(len(builder.shape(value)), axis), eq.source)


def _reversed(builder: Builder, x: int, eq: Equation) -> int:
    """Turned around along the last axis; what was turned around before is as it was."""
    axes = (len(builder.shape(x)) - 1,)
    made = builder.made.get(builder.resolve(x))
    if made is not None and made.kind == "REVERSE_V2" and made.attrs["axes"] == axes:
        return made.inputs[0]
    value = builder.new(builder.shape(x), builder.held(x))
    return builder.op("REVERSE_V2", (x,), {"axes": axes}, eq.source, outputs=(value,))


def _steps(builder: Builder, carried: int, axis: int) -> tuple[int, int] | None:
    """The first number and the step of a constant that counts up or down along the sorted axis; None for any other."""
    array = known(builder.view.trace.constants, builder.view.producer, carried)
    if array is None or array.dtype != INT32 or not array.size:
        return None
    row = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])[0]
    step = int(row[1] - row[0]) if row.size > 1 else 1
    counts = int(row[0]) + step * np.arange(row.size)
    ones = [-1 if a == axis else 1 for a in range(array.ndim)]
    same = np.array_equal(array, np.broadcast_to(counts.reshape(ones), array.shape))
    return (int(row[0]), step) if same and abs(step) == 1 else None


def _affine(builder: Builder, places: int, count: int, first: int, step: int, eq: Equation) -> int:
    """`first + step (count - 1 - places)`: what stood at places that are counted from the end."""
    offset = first + step * (count - 1)
    constant = builder.weight(lambda: np.full((), offset, np.int32), (), (), dtype=INT32)
    if step < 0 and offset == 0:
        return places
    operands = (constant, places) if step > 0 else (places, constant)
    attrs = {"operator": "SUB" if step > 0 else "ADD"}
    value = builder.new(builder.shape(places), INT32)
    return builder.op("INTEGER", operands, attrs, eq.source, outputs=(value,))
