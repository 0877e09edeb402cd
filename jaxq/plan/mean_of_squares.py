"""The mean of squares as a product of two vectors.

A tensor of squares in int8 has one scale for the largest, and rounds the small ones, which are most of them, to zero. A
product's terms are never rounded: the device adds them in 32 bits and rounds the sum. LayerNorm's variance is one:

    table(mean(x * x))  ->  table'(x @ x),   table'(s) = table(s / n)

over the last axis, where nothing else reads the squares or their mean, and both are int8: in 16 bits, or in floats, a
square loses little. TFLite wants zero point 0 on a product's right side. Where x has none by rule, it stands there as
it is; else in a range of its own, so that whatever reads x keeps all of its steps.

Vectors are multiplied by blocks, for one by one the device spends its time on laying them out: all but the diagonal is
thrown away, and no negative sum needs a place in the range.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxq.graph import Draft, Graph, Op

SQUARES = "a mean of squares"  # the form's name in a plan
BLOCK = 16  # vectors in one product: what a CPU's kernels take at once of its columns


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
    """BATCH_MATMUL of blocks of vectors by themselves, and its diagonal, where the sums of the squares are.

    A rule for the MEAN, `mean*`, is one for all of these ops.
    """
    x, made = chain.square.inputs[0], _Made(draft, chain.mean)
    *batch, width = draft.avals[x].shape
    block = _block(batch)
    blocks = [*batch[:-1], batch[-1] // block] if batch else [1]
    blocks = blocks if len(blocks) <= 2 else [math.prod(blocks)]
    rows = made.reshape("rows", x, (*blocks, block, width))
    others = rows if symmetric else made.reshape("others", made.copy(x), (*blocks, block, width))
    columns = made.transposed("columns", others)
    total = made.op("BATCH_MATMUL", "sum", (rows, columns), (*blocks, block, block), activation=(0.0, math.inf))
    made.mean_of(total if block == 1 else made.diagonal(total))
    return made.ops


def _block(batch: Sequence[int]) -> int:
    """How many vectors make one product: the greatest divisor of their number, up to BLOCK; the first axis stands."""
    return max(n for n in range(1, BLOCK + 1) if batch[-1] % n == 0) if len(batch) > 1 else 1


class _Made:
    """The ops that take a MEAN's place, each of which gives the number of the value that it makes."""

    def __init__(self, draft: Draft, mean: Op) -> None:
        self.draft, self.mean, self.ops = draft, mean, list[Op]()

    def op(self, kind: str, part: str, inputs: Sequence[int], shape: Sequence[int], /, **attrs: Any) -> int:
        name = f"{self.mean.name}:{part}"
        out = self.draft.value(inputs[0], name, tuple(shape))
        self.ops.append(Op(kind, name, tuple(inputs), (out,), attrs, self.mean.source))
        return out

    def reshape(self, part: str, x: int, shape: Sequence[int]) -> int:
        return self.op("RESHAPE", part, (x,), shape, shape=tuple(shape))

    def transposed(self, part: str, x: int) -> int:
        """[..., m, n] to [..., n, m]."""
        *first, m, n = shape = self.draft.avals[x].shape
        last = len(shape)
        if m == 1:
            return self.reshape(part, x, (*first, n, m))
        return self.op("TRANSPOSE", part, (x,), (*first, n, m), perm=(*range(last - 2), last - 1, last - 2))

    def copy(self, x: int) -> int:
        """The same numbers in another range: times one."""
        shape = self.draft.avals[x].shape
        weights = (self.draft.weight(number * np.ones(shape[-1:])) for number in (1.0, 0.0))
        return self.op("AFFINE", "symmetric", (x, *weights), shape, activation=None)

    def diagonal(self, x: int) -> int:
        """[..., n, n] to [..., n, 1]: one number further in each row, which rows of n + 1 numbers have in a column.

        No strides, which Ethos-U has none of.
        """
        *first, n, _ = self.draft.avals[x].shape
        flat = self.reshape("flat", x, (*first, n * n))
        pads = (*[(0, 0)] * len(first), (0, n))
        padded = self.op("PAD", "padded", (flat,), (*first, n * (n + 1)), pads=pads)
        rows = self.reshape("shifted", padded, (*first, n, n + 1))
        begin, size = (0,) * (len(first) + 2), (*first, n, 1)
        return self.op("SLICE", "diagonal", (rows,), size, begin=begin, size=size)

    def mean_of(self, total: int) -> None:
        """The MEAN's own value, which is the sum now, in the shape that it had."""
        attrs = {"shape": self.draft.avals[self.mean.outputs[0]].shape, "form": SQUARES}
        self.ops.append(dataclasses.replace(self.mean, kind="RESHAPE", inputs=(total,), attrs=attrs))


def _of_sum(table: Op, width: int) -> Op:
    """The table that reads the sum of the squares in place of their mean."""
    assert table.call is not None
    call: Callable[..., Sequence[Any]] = table.call

    def of_sum(total: Any) -> Sequence[Any]:
        return call(total / width)

    return dataclasses.replace(table, call=of_sum, attrs={**table.attrs, "of": ("div", *table.attrs["of"])})
