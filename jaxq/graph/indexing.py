"""Reading and writing at several constant places: `take_along_axis`, `diagonal`, `x.at[:, [0, 3]].set(y)`.

Where each number of the result stands in the operands is computed at capture. Axes that are
passed on as they are, such as the batch, stay apart; the others of all operands are laid out as one axis, and a GATHER
along it picks the result: RESHAPE, CONCATENATION, GATHER, RESHAPE. All of it moves integers and rounds nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxq.graph import arithmetic, masks, movement
from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation
from jaxq.graph.known import known
from jaxq.graph.pieces import joined
from jaxq.graph.windows import Part, read_by, written_by

MOST_PRODUCTS = 2**22  # numbers of a matrix that adds up updates of the same places


def gather(builder: Builder, eq: Equation) -> bool:
    """A gather at constant places: GATHER along one axis as it is, any other laid out along one."""
    if movement.gather(builder, eq):
        return True
    x, indices = eq.inputs
    starts = known(builder.view.trace.constants, builder.view.producer, indices)
    if starts is None or x not in builder.dynamic:
        return False
    shape, windows = builder.shape(x), read_by(eq, len(builder.shape(x)))
    part = Part(x, shape, {out: a for a, out in windows.axes.items() if windows.whole(a, shape)})
    found = windows.places(part, starts)
    picked = None if found is None else _picked(builder, [part], found, eq.source)
    if picked is not None:
        builder.becomes(eq.outputs[0], picked)
    return picked is not None


def scatter(builder: Builder, eq: Equation, neutral: float | None, primitive: str) -> bool:
    """A scatter at constant places; `neutral` and `primitive` as in `jaxq.graph.updates.scatter`."""
    x, indices, updates = eq.inputs
    starts = known(builder.view.trace.constants, builder.view.producer, indices)
    target = x if neutral is None else builder.full(neutral, builder.shape(x))
    parts = None if starts is None else _scattered(builder, target, updates, eq, starts)
    if parts is None:
        return False
    *parts, places = parts
    found = np.arange(parts[0].counted)
    found[places.reshape(-1)] = np.arange(parts[1].counted) + len(found)
    found = found.reshape(_with_ones(parts[0]))
    if primitive and np.count_nonzero(found >= parts[0].counted) < parts[1].counted:
        return primitive == "ADD" and _summed(builder, eq, parts, places)
    number = builder.view.scalar(updates)
    if number is None or target not in builder.dynamic:
        other = _picked(builder, parts, found, eq.source)
    else:
        other = _masked(builder, parts, found, number, eq.source)
    return other is not None and combined(builder, eq, other, primitive)


def combined(builder: Builder, eq: Equation, other: int, primitive: str) -> bool:
    """The result of a scatter: `other`, or the op of x and `other`."""
    if not primitive:
        builder.becomes(eq.outputs[0], other)
        return True
    pair = dataclasses.replace(eq, inputs=(eq.inputs[0], other))
    return arithmetic.CLIPS.get(primitive, arithmetic.binary(primitive))(builder, pair)


def _scattered(
    builder: Builder, x: int, updates: int, eq: Equation, starts: np.ndarray
) -> tuple[Part, Part, np.ndarray] | None:
    """x, the updates, and where each of these goes in x. None where some lie outside, which JAX drops."""
    shape, own = builder.shape(x), builder.shape(updates)
    windows = written_by(eq, len(shape), own)
    kept = {a: u for a, u in windows.axes.items() if windows.whole(a, shape)}
    parts = Part(x, shape, {a: a for a in kept}), Part(updates, own, kept)
    found = windows.places(parts[0], starts)
    return None if found is None else (*parts, found)


def _with_ones(part: Part) -> list[int]:
    """The shape of a part, with ones for the axes that it keeps."""
    return [size if axis in part.rest else 1 for axis, size in enumerate(part.shape)]


def _masked(builder: Builder, parts: Sequence[Part], found: np.ndarray, number: float, source: str) -> int:
    """One number at constant places: SELECT by a constant mask."""
    mask = found >= parts[0].counted
    for axis in range(mask.ndim):
        first = np.take(mask, [0], axis)
        mask = first if np.array_equal(mask, np.broadcast_to(first, mask.shape)) else mask
    condition = builder.weight(lambda: jnp.asarray(mask), (), mask.shape, dtype=np.dtype(np.bool_))
    return masks.choose(builder, (condition, builder.full(number, ()), parts[0].value), number, source)


def _summed(builder: Builder, eq: Equation, parts: Sequence[Part], places: np.ndarray) -> bool:
    """Updates of which several go to one place, as `jax.ops.segment_sum` adds them: a product with zeros and ones."""
    x, updates = parts
    kept, n, m = sorted(x.kept), x.counted, updates.counted
    if not kept or n * m > MOST_PRODUCTS or updates.value not in builder.dynamic:
        return False
    matrix = np.zeros((m, n), np.float32)
    matrix[np.arange(m), places.reshape(-1)] = 1.0
    rows = _flat(builder, updates, kept, (), eq.source)
    shape = [x.shape[axis] for axis in (*kept, *x.rest)]
    inputs = (rows, builder.weight(lambda: matrix, (), (m, n)), builder.full(0.0, (n,)))
    y = builder.op("FULLY_CONNECTED", inputs, {"activation": None}, eq.source, shape=(*shape[: len(kept)], n))
    y = builder.reshape(y, shape, eq.source)
    order = (*kept, *x.rest)
    other = builder.transpose(y, [order.index(a) for a in range(len(shape))], eq.source)
    return combined(builder, eq, other, "ADD")


def _picked(builder: Builder, parts: Sequence[Part], found: np.ndarray, source: str) -> int | None:
    """The result, picked out of the parts. found: where it stands, kept axes of size 1. None for an empty one."""
    if found.size == 0:
        return None
    parts, found = _apart(*_read(parts, found))
    kept = sorted(parts[0].kept)
    picked = [axis for axis in range(found.ndim) if axis not in kept]
    before = [axis for axis in kept if axis < min(picked, default=found.ndim)]
    after = [axis for axis in kept if axis not in before]
    flat = [_flat(builder, part, before, after, source) for part in parts]
    places = found.reshape([found.shape[axis] for axis in picked])
    y = _taken(builder, joined(builder, flat, len(before), source), places, len(before), source)
    order = [*before, *picked, *after]
    return builder.transpose(y, [order.index(a) for a in range(found.ndim)], source)


def _read(parts: Sequence[Part], found: np.ndarray) -> tuple[Sequence[Part], np.ndarray]:
    """The parts that the result is made of, and where its numbers stand in these."""
    ends = np.cumsum([part.counted for part in parts])
    of = np.searchsorted(ends, found, side="right")
    read = [i for i in range(len(parts)) if np.any(of == i)]
    skipped = [sum(parts[j].counted for j in range(i) if j not in read) for i in range(len(parts))]
    return [parts[i] for i in read], found - np.take(skipped, of)


def _flat(builder: Builder, part: Part, before: Sequence[int], after: Sequence[int], source: str) -> int:
    """A part as [kept axes, all others as one, kept axes]."""
    first, last = ([part.kept[axis] for axis in axes] for axes in (before, after))
    moved = builder.transpose(builder.resolve(part.value), [*first, *part.rest, *last], source)
    sizes = [[part.shape[axis] for axis in axes] for axes in (first, last)]
    return builder.reshape(moved, (*sizes[0], part.counted, *sizes[1]), source)


def _taken(builder: Builder, x: int, places: np.ndarray, axis: int, source: str) -> int:
    """x with the places of one axis in the place of it."""
    whole = builder.shape(x)
    shape = (*whole[:axis], *places.shape, *whole[axis + 1 :])
    if np.array_equal(places.reshape(-1), np.arange(whole[axis])):
        return builder.reshape(x, shape, source)
    if x not in builder.dynamic:
        return builder.weight(lambda w: w[(slice(None),) * axis + (places,)], (x,), shape)
    rows = places.reshape(-1)
    indices = builder.weight(lambda: jnp.asarray(rows, jnp.int32), (), rows.shape, dtype=np.dtype(np.int32))
    dtype = builder.avals[x].dtype
    dtype = np.dtype(np.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype
    picked = builder.new((*whole[:axis], rows.size, *whole[axis + 1 :]), dtype)
    builder.op("GATHER", (x, indices), {"axis": axis}, source, outputs=(picked,))
    return builder.reshape(picked, shape, source)


# --- axes that are passed on unchanged ------------------------------------------------------------------------------


def _apart(parts: Sequence[Part], found: np.ndarray) -> tuple[Sequence[Part], np.ndarray]:
    """Parts that keep every axis that they can: `x[arange(batch)[:, None], places]` keeps the batch."""
    for axis in range(found.ndim):
        if axis not in parts[0].kept:
            parts, found = _without(parts, found, axis) or (parts, found)
    return parts, found


def _without(parts: Sequence[Part], found: np.ndarray, axis: int) -> tuple[Sequence[Part], np.ndarray] | None:
    """The same with one more kept axis of the result; None where what stands along it is no axis of some part."""
    kept, result, offset, after = [], np.zeros_like(np.take(found, [0], axis)), 0, 0
    for part in parts:
        own = (found >= offset) & (found < offset + part.counted)
        places = np.unravel_index(np.where(own, found - offset, 0), [part.shape[a] for a in part.rest])
        step = next((s for i in range(len(part.rest)) if (s := _kept(part, own, places, axis, i))), None)
        if step is None:
            return None
        fewer, rest = step
        result = np.where(np.take(own, [0], axis), rest + after, result)
        offset, after = offset + part.counted, after + fewer.counted
        kept.append(fewer)
    return kept, result


def _kept(
    part: Part, own: np.ndarray, places: Sequence[np.ndarray], axis: int, i: int
) -> tuple[Part, np.ndarray] | None:
    """A part that keeps one more of its axes, and the places among the others, if they are the same all along `axis`.

    Args:
      own: which numbers of the result are of this part. places: where, in each of its axes that are not kept.
      axis: of the result. i: which of the part's axes it may be.
    """
    fewer = dataclasses.replace(part, kept={**part.kept, axis: part.rest[i]})
    here = np.arange(own.shape[axis]).reshape([-1 if a == axis else 1 for a in range(own.ndim)])
    others = [p for j, p in enumerate(places) if j != i]
    sizes = [part.shape[a] for a in fewer.rest]
    rest = np.ravel_multi_index(others, sizes) if others else np.zeros_like(places[i])
    first_own, first = np.take(own, [0], axis), np.take(rest, [0], axis)
    same = np.all(own == first_own) and np.all((places[i] == here) | ~own) and np.all((rest == first) | ~own)
    return (fewer, first) if same and part.shape[part.rest[i]] == own.shape[axis] else None
