"""Ops that a target has no kernel for, in other ops that mean the same: chosen in the plan, trained in that form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxq.graph import Draft, Graph, Op
from jaxq.ops.resizing import in_float32


class Form(NamedTuple):
    """What the form of an op computes, and the ops that compute it."""

    meaning: str
    ops: Callable[[Draft, Op], Sequence[Op]]


def _hard_swish(draft: Draft, op: Op) -> Sequence[Op]:
    return _of_two(op, "MUL", _affine(draft, op, f"{op.name}:gate", 1 / 6, 0.5, (0.0, 1.0)))


def _leaky_relu(draft: Draft, op: Op) -> Sequence[Op]:
    return _of_two(op, "MAXIMUM", _affine(draft, op, f"{op.name}:slope", float(op.attrs["alpha"]), 0.0, None))


def _affine(draft: Draft, op: Op, name: str, mul: float, add: float, bounds: tuple[float, float] | None) -> Op:
    x, shape = op.inputs[0], draft.avals[op.inputs[0]].shape
    channels = shape[-1] if shape else 1
    inputs = (x, *(draft.weight(np.full(channels, number)) for number in (mul, add)))
    return Op("AFFINE", name, inputs, (draft.value(x, name),), {"activation": bounds}, op.source)


def _of_two(op: Op, kind: str, first: Op) -> Sequence[Op]:
    """`first`, and the op of this kind of the input and of what `first` makes of it."""
    return first, dataclasses.replace(op, kind=kind, inputs=(op.inputs[0], *first.outputs), attrs={"form": op.kind})


def _resize_bilinear(draft: Draft, op: Op) -> Sequence[Op]:
    """Each axis comes last for its product."""
    made: list[Op] = []

    def then(kind: str, name: str, shape: Sequence[int], attrs: Mapping[str, Any], *weights: int) -> None:
        x = made[-1].outputs[0] if made else op.inputs[0]
        out = draft.value(x, f"{op.name}:{name}", tuple(shape))
        made.append(Op(kind, draft.names[out], (x, *weights), (out,), attrs, op.source))

    def product(name: str, size: int, out: int) -> None:
        shape = (*draft.avals[made[-1].outputs[0]].shape[:-1], out)
        weights = draft.weight(_between(size, out)), draft.weight(np.zeros(out))
        then("FULLY_CONNECTED", name, shape, {"activation": None}, *weights)

    (n, h, w, c), (rows, columns) = draft.avals[op.inputs[0]].shape, op.attrs["size"]
    then("TRANSPOSE", "to_rows", (n, w, c, h), {"perm": (0, 2, 3, 1)})
    product("rows", h, rows)
    then("TRANSPOSE", "to_columns", (n, rows, c, w), {"perm": (0, 3, 2, 1)})
    product("columns", w, columns)
    last = Op("TRANSPOSE", op.name, made[-1].outputs, op.outputs, {"perm": (0, 1, 3, 2), "form": op.kind}, op.source)
    return [*made, last]


def _between(size: int, out: int) -> np.ndarray:
    """The matrix [size, out] of a resized axis."""
    taps, places = in_float32(size, out, align=False, half=True), np.arange(size)[:, None]
    return (places == taps.first) * (1 - taps.weight) + (places == taps.second) * taps.weight


def _cumsum(draft: Draft, op: Op) -> Sequence[Op]:
    """The axis comes last for the product with a triangle of ones, and goes back."""
    shape, axis = draft.avals[op.inputs[0]].shape, op.attrs["axis"]
    perm = [d for d in range(len(shape)) if d != axis] + [axis]
    size, moved = shape[axis], tuple(shape[d] for d in perm)
    triangle = np.tril(np.ones((size, size))) if op.attrs["reverse"] else np.triu(np.ones((size, size)))
    weights = draft.weight(triangle), draft.weight(np.zeros(size))
    if axis == len(shape) - 1:
        return [Op("FULLY_CONNECTED", op.name, (*op.inputs, *weights), op.outputs,
                   {"activation": None, "form": op.kind}, op.source)]  # fmt: skip
    before, after = (draft.value(op.inputs[0], f"{op.name}:{name}", moved) for name in ("last", "sums"))
    back = tuple(perm.index(d) for d in range(len(shape)))
    return [
        Op("TRANSPOSE", draft.names[before], op.inputs, (before,), {"perm": tuple(perm)}, op.source),
        Op("FULLY_CONNECTED", draft.names[after], (before, *weights), (after,), {"activation": None}, op.source),
        Op("TRANSPOSE", op.name, (after,), op.outputs, {"perm": back, "form": op.kind}, op.source),
    ]


FORMS: Mapping[str, Form] = {
    "CUMSUM": Form("a product with a triangle of ones: LiteRT's CUMSUM takes no quantized numbers", _cumsum),
    "HARD_SWISH": Form("x * clip(x / 6 + 1/2, 0, 1), which the target has kernels for", _hard_swish),
    "LEAKY_RELU": Form("max(x, alpha x), for alpha up to 1, which the target has kernels for", _leaky_relu),
    "RESIZE_BILINEAR": Form(
        "two products, for factors other than 2, which the target has kernels for", _resize_bilinear
    ),
}


# Kinds that TFLite has no kernel for on quantized numbers, on any target: their form stands for them there.
OF_INTEGERS = frozenset({"CUMSUM"})


def has_form(op: Op) -> bool:
    """Whether there is another form of an op."""
    return op.kind in FORMS and op.attrs.get("alpha", 0.0) <= 1.0 and op.attrs.get("factors") != (2.0, 2.0)


def composed(graph: Graph, kinds: frozenset[str], quantized: Callable[[Op], bool]) -> Graph:
    """The graph with every op of these kinds in its other form, and those of `OF_INTEGERS` that are `quantized`;
    `graph` itself where there is none.
    """

    def chosen(op: Op) -> bool:
        return has_form(op) and (op.kind in kinds - OF_INTEGERS or (op.kind in OF_INTEGERS and quantized(op)))

    if not any(map(chosen, graph.ops)):
        return graph
    draft, ops = Draft(graph), []
    for op in graph.ops:
        ops.extend(FORMS[op.kind].ops(draft, op) if chosen(op) else [op])
    return draft.graph(ops)
