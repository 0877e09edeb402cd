"""Refuses a function whose result for one example depends on the others of the batch.

A device runs one example, and so does the proof of a file; a training step runs many. The integers of both are the same
where no op reads across examples. A graph recorded at a generic batch (`jaxq.graph.batch`) shows it: the batch is a
prime that divides no other size, so that every axis that holds it is known, and ops are followed from the inputs on.
Of an op in floating point it is known only whether its result holds the batch; what depends on it is not followed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxq.errors import BatchStatisticsError
from jaxq.graph.ir import ELEMENTWISE, Graph, Op


class Held(NamedTuple):
    """Where an array holds the examples: along `axis`, whose size is `before * batch * after`."""

    axis: int
    before: int = 1
    after: int = 1


Place = Held | None  # None: not known


class Step(NamedTuple):
    """One op: the shapes of its operands and first result, and for operands that hold the batch the place."""

    op: Op
    shapes: Sequence[tuple[int, ...]]
    out: tuple[int, ...]
    held: Mapping[int, Held]
    batch: int


class _Mixes(Exception):
    """An op reads across examples; the text says what it does."""


def places_of(graph: Graph, batch: int) -> dict[int, Place]:
    """Where each value that depends on the examples holds a batch of this generic size.

    Raises BatchStatisticsError for an op that mixes the examples.
    """
    places: dict[int, Place] = {v: Held(0) for v in graph.inputs if graph.avals[v].shape[:1] == (batch,)}
    for op in graph.ops:
        read = {i: places[v] for i, v in enumerate(op.inputs) if v in places}
        if read:
            for value, place in zip(op.outputs, _places(graph, op, read, batch), strict=True):
                places[value] = place
    return places


def _places(graph: Graph, op: Op, read: Mapping[int, Place], batch: int) -> Sequence[Place]:
    """Where the results of an op hold the batch."""
    held = {i: place for i, place in read.items() if place is not None}
    if len(held) < len(read):
        return [None for _ in op.outputs]
    shapes = [graph.avals[v].shape for v in op.inputs]
    results = [Step(op, shapes, graph.avals[v].shape, held, batch) for v in op.outputs]
    try:
        return [RULES[op.kind](result) for result in results]
    except _Mixes as mixes:
        raise BatchStatisticsError(
            f"`{op.kind}` at {op.source} {mixes}: the output for one example would depend on the others, and a device "
            "runs one. Use statistics that are stored, as `nnx.BatchNorm` and `flax.linen.BatchNorm` do: jaxq runs "
            "these on their running statistics in every mode. What compares examples, such as a contrastive loss, "
            "belongs into the loss."
        ) from None


# --- rules: a Step -> where the result holds the batch; raises _Mixes ------------------------------------------------


def _over(held: Held) -> str:
    return f"axis {held.axis}, the batch" if held[1:] == (1, 1) else f"axis {held.axis}, which holds the batch"


def _aligned(step: Step) -> Held:
    """Elementwise, with numpy's broadcasting: axes are counted from the last."""
    found = {(held.axis - len(step.shapes[i]), held.before, held.after) for i, held in step.held.items()}
    if len(found) > 1:
        raise _Mixes("combines each example with others")
    ((axis, before, after),) = found
    return Held(axis + len(step.out), before, after)


def _moved(step: Step) -> Held:
    held = step.held[0]
    return held._replace(axis=tuple(step.op.attrs["perm"]).index(held.axis))


def _reshaped(step: Step) -> Held:
    held, shape = step.held[0], step.shapes[0]
    outer = math.prod(shape[: held.axis]) * held.before
    for axis, size in enumerate(step.out):
        if size % step.batch == 0:
            before, rest = divmod(outer, math.prod(step.out[:axis]))
            after, left = divmod(size, before * step.batch) if before else (0, 1)
            if not rest and not left:
                return Held(axis, before, after)
    raise _Mixes(f"reads the numbers of all examples in another order, from {list(shape)} to {list(step.out)}")


def _axes(step: Step) -> tuple[int, ...]:
    attrs, rank = step.op.attrs, len(step.shapes[0])
    axes = attrs["axes"] if "axes" in attrs else (attrs["axis"],)
    return tuple(int(a) % rank for a in axes)


def _reduced(step: Step) -> Held:
    held, axes = step.held[0], _axes(step)
    if held.axis in axes:
        raise _Mixes(f"reduces over {_over(held)}")
    kept = len(step.out) == len(step.shapes[0])
    return held if kept else held._replace(axis=held.axis - sum(axis < held.axis for axis in axes))


def _along(step: Step) -> Held:
    """An op along one axis, or several, that keeps the shape."""
    if step.held[0].axis in _axes(step):
        raise _Mixes(f"runs along {_over(step.held[0])}")
    return step.held[0]


def _over_the_last(step: Step) -> Held:
    """An op that reads the last axis as a whole, such as a softmax or a dense layer."""
    if step.held[0].axis == len(step.shapes[0]) - 1:
        raise _Mixes(f"sums over {_over(step.held[0])}")
    return step.held[0]


def _sorted(step: Step) -> Held:
    """The largest numbers of the last axis."""
    if step.held[0].axis == len(step.shapes[0]) - 1:
        raise _Mixes(f"sorts {_over(step.held[0])}")
    return step.held[0]


def _windowed(step: Step) -> Held:
    """Convolutions and pools of [N, H, W, C]: N apart, and H and W where the window is one pixel."""
    held = step.held[0]
    window = step.op.attrs["window"] if "window" in step.op.attrs else step.shapes[1][:2]
    apart = held.axis == 0 or (held.axis in (1, 2) and window[held.axis - 1] == 1)
    if not apart or step.out[held.axis] != step.shapes[0][held.axis]:
        raise _Mixes(f"reads a window of {_over(held)}")
    return held


def _resized(step: Step) -> Held:
    if step.held[0].axis in (1, 2):
        raise _Mixes(f"interpolates along {_over(step.held[0])}")
    return step.held[0]


def _multiplied(step: Step) -> Held:
    """[..., M, K] by [..., K, N]."""
    from_last = {i: held.axis - len(step.shapes[i]) for i, held in step.held.items()}
    if from_last.get(0) == -1 or from_last.get(1) == -2:
        raise _Mixes("sums over the batch")
    if len(set(from_last.values())) > 1 or len({held[1:] for held in step.held.values()}) > 1:
        raise _Mixes("multiplies each example by others")
    if set(from_last) == {0, 1} and from_last[0] >= -2:
        raise _Mixes("multiplies each example by others")
    held = next(iter(step.held.values()))
    return held._replace(axis=next(iter(from_last.values())) + len(step.out))


def _joined(step: Step) -> Place:
    """Parts joined along an axis; along the batch so many batches stand one after the other."""
    found = set(step.held.values())
    if len(found) > 1:
        raise _Mixes("joins parts that hold the batch along different axes")
    (held,) = found
    if held.axis != step.op.attrs["axis"] % len(step.out):
        return held
    return held._replace(before=held.before * len(step.shapes)) if len(step.held) == len(step.shapes) else None


def _part(step: Step) -> Place:
    """A slice: whole batches, or all of the axis."""
    held, attrs = step.held[0], step.op.attrs
    size, whole = step.out[held.axis], step.shapes[0][held.axis]
    stride = attrs["strides"][held.axis] if "strides" in attrs else 1
    if (size, stride) == (whole, 1):
        return held
    if stride not in (1, -1):
        return None  # the first of each example's steps, perhaps
    block = step.batch * held.after
    if stride == -1 or size % block or attrs["begin"][held.axis] % block:
        raise _Mixes(
            f"takes a part of {_over(held)}, as `x[:n]`, `jnp.prod(x, 0)` and a loop over examples (`lax.map`, "
            "`lax.scan`: use `jax.vmap`) do, or turns it around"
        )
    return held._replace(before=size // block)


def _divided(step: Step) -> Place:
    held = step.held[0]
    if held.axis != step.op.attrs["axis"] % len(step.out):
        return held
    block = step.batch * held.after
    if step.out[held.axis] % block:
        raise _Mixes(f"splits {_over(held)}")
    return held._replace(before=step.out[held.axis] // block)


def _looked_up(step: Step) -> Place:
    """Rows of a tensor by indices."""
    axis = step.op.attrs.get("axis", 0) % max(len(step.shapes[0]), 1)
    if len(step.held) > 1:
        return None
    if 1 in step.held:
        return step.held[1]._replace(axis=step.held[1].axis + axis)
    held = step.held[0]
    if held.axis == axis:
        raise _Mixes(f"picks from {_over(held)}")
    return held if held.axis < axis else held._replace(axis=held.axis + len(step.shapes[1]) - 1)


def _embedded(step: Step) -> Held:
    table = step.held.get(1)
    if table is None:
        return step.held[0]  # the ids' own axes come first
    if table.axis == 0 or 0 in step.held:
        raise _Mixes(f"reads rows of {_over(table)}" if table.axis == 0 else "combines each example with others")
    return table._replace(axis=table.axis - 1 + len(step.shapes[0]))


def _padded(step: Step) -> Held:
    if any(step.op.attrs["pads"][step.held[0].axis]):
        raise _Mixes(f"pads {_over(step.held[0])}")
    return step.held[0]


def _floating(step: Step) -> Place:
    if all(size % step.batch for size in step.out):
        raise _Mixes(f"reduces over {_over(next(iter(step.held.values())))}")
    return None


# A row for each kind of op; those of ELEMENTWISE are aligned. Sorted.
RULES: Mapping[str, Callable[[Step], Place]] = dict.fromkeys(ELEMENTWISE, _aligned) | {
    "ARG_MAX": _reduced,
    "ARG_MIN": _reduced,
    "AVERAGE_POOL_2D": _windowed,
    "BATCH_MATMUL": _multiplied,
    "CONCATENATION": _joined,
    "CONV_2D": _windowed,
    "CUMSUM": _along,
    "DEPTHWISE_CONV_2D": _windowed,
    "EMBEDDING": _embedded,
    "FLOAT": _floating,
    "FULLY_CONNECTED": _over_the_last,
    "GATHER": _looked_up,
    "MAX_POOL_2D": _windowed,
    "MEAN": _reduced,
    "PAD": _padded,
    "REDUCE_MAX": _reduced,
    "REDUCE_MIN": _reduced,
    "RESHAPE": _reshaped,
    "RESIZE_BILINEAR": _resized,
    "REVERSE_V2": _along,
    "SLICE": _part,
    "SOFTMAX": _over_the_last,
    "SPLIT": _divided,
    "STRIDED_SLICE": _part,
    "SUM": _reduced,
    "TOPK_V2": _sorted,
    "TRANSPOSE": _moved,
    "TRANSPOSE_CONV": _windowed,
}
