"""Changes of a part of an array at a constant place: one rule each, `(builder, equation) -> bool`.

`x.at[:, 1].set(y)` and `lax.dynamic_update_slice` put y between what is left of x, as CONCATENATION; `.add` and
`.multiply` are arithmetic with an array of zeros or ones into which y is put.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jaxq.graph import indexing
from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation
from jaxq.graph.pieces import joined, sliced


def dynamic_update_slice(builder: Builder, eq: Equation) -> bool:
    """The update at a constant place."""
    x, part, *starts = eq.inputs
    begin = [builder.view.scalar(v) for v in starts]
    if any(b is None for b in begin):
        return False
    limits = [whole - size for whole, size in zip(builder.shape(x), builder.shape(part), strict=True)]
    place = [min(max(int(b or 0), 0), limit) for b, limit in zip(begin, limits, strict=True)]
    builder.becomes(eq.outputs[0], _replaced(builder, x, part, place, eq.source))
    return True


def scatter(neutral: float | None, primitive: str = "") -> Callable[[Builder, Equation], bool]:
    """Parts that replace others, or that an op combines with them.

    Args:
      neutral: the number of which the op and x make x; None where x itself is one.
      primitive: the op; none where the parts replace.
    """

    def rule(builder: Builder, eq: Equation) -> bool:
        return _at_one_place(builder, eq, neutral, primitive) or indexing.scatter(builder, eq, neutral, primitive)

    return rule


def _at_one_place(builder: Builder, eq: Equation, neutral: float | None, primitive: str) -> bool:
    x, _, part = eq.inputs
    place = _place(builder, eq)
    if place is None:
        return False
    inserted = eq.params["dimension_numbers"].inserted_window_dims
    shape = list(builder.shape(part))
    for axis in sorted(inserted):
        shape.insert(axis, 1)
    part = builder.reshape(part, shape, eq.source)
    if any(b < 0 or b + n > whole for b, n, whole in zip(place, shape, builder.shape(x), strict=True)):
        return False  # JAX drops what lies outside
    if neutral is None:
        other = _replaced(builder, x, part, place, eq.source)
        return indexing.combined(builder, eq, other, primitive)
    other = _amid(builder, neutral, part, place, builder.shape(x), eq.source)
    return indexing.combined(builder, eq, other, primitive)


def _place(builder: Builder, eq: Equation) -> list[int] | None:
    """Where one window begins in each axis; None for several windows, or a place that is not constant."""
    _, indices, part = eq.inputs
    numbers, rank = eq.params["dimension_numbers"], len(builder.shape(eq.inputs[0]))
    axes = tuple(numbers.scatter_dims_to_operand_dims)
    whole = tuple(numbers.update_window_dims) == tuple(range(len(builder.shape(part))))
    if not whole or numbers.operand_batching_dims or builder.shape(indices) != (len(axes),):
        return None
    found = _numbers(builder, indices)
    return None if found is None else [dict(zip(axes, found, strict=True)).get(axis, 0) for axis in range(rank)]


def _numbers(builder: Builder, value: int) -> list[int] | None:
    """The numbers of a constant vector that is written element by element."""
    eq = builder.view.producer.get(value)
    if eq is not None and eq.primitive == "concatenate":
        parts = [_numbers(builder, v) for v in eq.inputs]
        return None if None in parts else [n for part in parts if part is not None for n in part]
    number = builder.view.scalar(value)
    return None if number is None else [int(number)] * math.prod(builder.shape(value))


def pad(builder: Builder, eq: Equation) -> bool:
    """PAD with zeros, behind a SLICE where a side is cut; CONCATENATION with another number."""
    x, config, number = builder.resolve(eq.inputs[0]), eq.params["padding_config"], builder.view.scalar(eq.inputs[1])
    if number is None or not math.isfinite(number):
        return False
    for axis, (_, _, inner) in enumerate(config):
        x = _spread(builder, number, x, axis, int(inner), eq.source)
    shape = builder.shape(x)
    begin = [max(0, -int(low)) for low, _, _ in config]
    size = [whole - b - max(0, -int(high)) for whole, b, (_, high, _) in zip(shape, begin, config, strict=True)]
    if 0 in size:
        return False
    x = sliced(builder, x, begin, size, eq.source)
    place = [max(0, int(low)) for low, _, _ in config]
    builder.becomes(eq.outputs[0], _amid(builder, number, x, place, builder.shape(eq.outputs[0]), eq.source))
    return True


def _spread(builder: Builder, number: float, x: int, axis: int, inner: int, source: str) -> int:
    """`x` with so many numbers between its elements along an axis: behind each, and cut behind the last."""
    shape = builder.shape(x)
    if not inner or shape[axis] < 2:
        return x
    before, count, after = shape[:axis], shape[axis], shape[axis + 1 :]
    apart = builder.reshape(x, (*before, count, 1, *after), source)
    apart = _amid(builder, number, apart, [0] * (len(shape) + 1), (*before, count, 1 + inner, *after), source)
    x = builder.reshape(apart, (*before, count * (1 + inner), *after), source)
    return sliced(builder, x, [0] * len(shape), (*before, count * (1 + inner) - inner, *after), source)


def _amid(builder: Builder, number: float, part: int, place: Sequence[int], shape: Sequence[int], source: str) -> int:
    """An array of one number with `part` at a place: a PAD where the number is zero."""
    size = builder.shape(part)
    if number != 0.0 or size == tuple(shape) or part not in builder.dynamic:
        return _replaced(builder, builder.full(number, shape, builder.held(part)), part, place, source)
    pads = tuple((b, whole - b - n) for b, n, whole in zip(place, size, shape, strict=True))
    return builder.op("PAD", (builder.resolve(part),), {"pads": pads}, source, shape=shape)


def _replaced(builder: Builder, x: int, part: int, place: Sequence[int], source: str) -> int:
    """`x` with `part` at a place: along the first axis where they differ what is before, the middle, what is after."""
    shape, size = builder.shape(x), builder.shape(part)
    axis = next((a for a, (whole, n) in enumerate(zip(shape, size, strict=True)) if whole != n), None)
    if axis is None:
        return part

    def between(start: int, end: int) -> int:
        begin, sizes = [0] * len(shape), list(shape)
        begin[axis], sizes[axis] = start, end - start
        return sliced(builder, x, begin, sizes, source)

    first, last = place[axis], place[axis] + size[axis]
    middle = _replaced(builder, between(first, last), part, place, source)
    parts = [between(0, first)] if first else []
    parts += [middle, *([between(last, shape[axis])] if last < shape[axis] else [])]
    return joined(builder, parts, axis, source)
