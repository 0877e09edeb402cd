"""Values cut and joined: ops for activations, arithmetic for weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxq.graph.builder import Builder
from jaxq.numerics.rounding import namespace


def along(builder: Builder, value: int, axis: int, start: int, count: int, source: str) -> int:
    """Some places of one axis."""
    begin, size = [0] * len(builder.shape(value)), list(builder.shape(value))
    begin[axis], size[axis] = start, count
    return sliced(builder, value, begin, size, source)


def sliced(builder: Builder, value: int, begin: Sequence[int], size: Sequence[int], source: str) -> int:
    """A part of a value: itself, a SLICE, or a weight."""
    begin, size = tuple(begin), tuple(size)
    if size == builder.shape(value):
        return value
    if value not in builder.dynamic:
        part = tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))
        return builder.weight(lambda w: w[part], (value,), size, dtype=builder.held(value))
    return builder.op("SLICE", (builder.resolve(value),), {"begin": begin, "size": size}, source, shape=size)


def joined(builder: Builder, values: Sequence[int], axis: int, source: str) -> int:
    """Values one after the other along an axis: a CONCATENATION, or a weight."""
    if len(values) == 1:
        return values[0]
    shape = list(builder.shape(values[0]))
    shape[axis] = sum(builder.shape(v)[axis] for v in values)
    if builder.dynamic.isdisjoint(values):
        dtype = builder.held(values[0])
        return builder.weight(lambda *arrays: _host(arrays).concatenate(arrays, axis), values, shape, dtype=dtype)
    return builder.op("CONCATENATION", tuple(map(builder.resolve, values)), {"axis": axis}, source, shape=shape)


def _host(arrays: Sequence[Any]) -> Any:
    """numpy for numpy arrays alone, else `jax.numpy`."""
    return next((xp for xp in map(namespace, arrays) if xp is not np), np)
