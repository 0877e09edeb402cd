"""The mean of squares as a product of two vectors.

A tensor of squares in int8 has one scale for the largest, and rounds the small ones, which are most of them, to zero. A
product's terms are never rounded: the device adds them in 32 bits and rounds the sum. LayerNorm's variance is one:

    table(mean(x * x))  ->  table'(x @ x),   table'(s) = table(s / n)

over the last axis, where nothing else reads the squares or their mean, and both are int8: in 16 bits, or in floats, a
square loses little. TFLite wants zero point 0 on a product's right side. Where x has none by rule, it stands there as
it is; else in a range of its own, so that whatever reads x keeps all of its steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxq.graph import Draft, Graph, Op

SQUARES = "a mean of squares"  # the form's name in a plan


class Chain(NamedTuple):
    """A MUL of a value by itself, its MEAN, a TABLE, each the only reader of the one before, or of its RESHAPE."""

    square: Op
    mean: Op
    table: Op


def as_products(graph: Graph, is_int8: Callable[[Op], bool], is_symmetric: Callable[[int], bool]) -> Graph:
    """The graph with each int8 mean of squares that a table reads as a product; `graph` itself where there is none."""
    found = [chain for chain in _chains(graph) if is_int8(chain.square) and is_int8(chain.mean)]
    if not found:
        return graph
    draft = Draft(graph)
    instead: dict[int, Sequence[Op]] = {}
    for chain in found:
        instead[id(chain.square)] = ()
        instead[id(chain.mean)] = _product(draft, chain, is_symmetric(chain.square.inputs[0]))
        instead[id(chain.table)] = [_of_sum(chain.table, draft.avals[chain.square.inputs[0]].shape[-1])]
    return draft.graph([new for op in graph.ops for new in instead.get(id(op), [op])])


def _chains(graph: Graph) -> Iterator[Chain]:
    made = {v: op for op in graph.ops for v in op.outputs}
    readers: dict[int, list[Op | None]] = {v: [None] for v in graph.outputs}
    for op in graph.ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op)

    def only_reader(op: Op) -> Op | None:
        found = {id(reader): reader for reader in readers.get(op.outputs[0], [])}
        return next(iter(found.values())) if len(found) == 1 else None

    for mean in (op for op in graph.ops if _averages_channels(graph, op)):
        square, table = made.get(mean.inputs[0]), only_reader(mean)
        while table is not None and table.kind == "RESHAPE":
            table = only_reader(table)
        if square is None or table is None or only_reader(square) is not mean:
            continue
        if _is_square(square) and table.kind == "TABLE" and len(table.inputs) == 1:
            yield Chain(square, mean, table)


def _averages_channels(graph: Graph, op: Op) -> bool:
    return op.kind == "MEAN" and tuple(op.attrs["axes"]) == (len(graph.avals[op.inputs[0]].shape) - 1,)


def _is_square(op: Op) -> bool:
    return op.kind == "MUL" and len(set(op.inputs)) == 1 and op.attrs.get("activation") is None


def _product(draft: Draft, chain: Chain, symmetric: bool) -> list[Op]:
    """BATCH_MATMUL of the vectors as rows and as columns. Rules for the MEAN, `mean*`, are rules for all of them."""
    mean, x = chain.mean, chain.square.inputs[0]
    *batch, width = draft.avals[x].shape
    flat = batch if 1 <= len(batch) <= 2 else [math.prod(batch)]

    def op(kind: str, name: str, inputs: Sequence[int], shape: Sequence[int]) -> Op:
        attrs = {"shape": tuple(shape)} if kind == "RESHAPE" else {}
        return Op(kind, name, tuple(inputs), (draft.value(x, name, tuple(shape)),), attrs, mean.source)

    rows = op("RESHAPE", f"{mean.name}:rows", (x,), (*flat, 1, width))
    own = [] if symmetric else [_copy(draft, op("AFFINE", f"{mean.name}:symmetric", (x,), (*batch, width)))]
    columns = op("RESHAPE", f"{mean.name}:columns", own[0].outputs if own else (x,), (*flat, width, 1))
    product = op("BATCH_MATMUL", f"{mean.name}:sum", (*rows.outputs, *columns.outputs), (*flat, 1, 1))
    attrs = {"shape": draft.avals[mean.outputs[0]].shape, "form": SQUARES}
    total = dataclasses.replace(mean, kind="RESHAPE", inputs=product.outputs, attrs=attrs)
    return [rows, *own, columns, product, total]


def _copy(draft: Draft, op: Op) -> Op:
    """The same numbers in another range: times one."""
    (channels,) = draft.avals[op.outputs[0]].shape[-1:]
    weights = (draft.weight(number * np.ones(channels)) for number in (1.0, 0.0))
    return dataclasses.replace(op, inputs=(*op.inputs, *weights), attrs={"activation": None})


def _of_sum(table: Op, width: int) -> Op:
    """The table that reads the sum of the squares in place of their mean."""
    assert table.call is not None
    call: Callable[..., Sequence[Any]] = table.call

    def of_sum(total: Any) -> Sequence[Any]:
        return call(total / width)

    return dataclasses.replace(table, call=of_sum, attrs={**table.attrs, "of": ("div", *table.attrs["of"])})
