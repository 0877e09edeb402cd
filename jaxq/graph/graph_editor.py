"""A copy of a finished graph that takes further values: what the plan's own rewrites write into."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxq.graph.ir import Aval, Equation, Graph, Op


class Draft:
    """New values for a graph, which stays as it is."""

    def __init__(self, graph: Graph) -> None:
        self.avals, self.names = dict(graph.avals), dict(graph.site_names)
        self._old, self._weights = graph, list(graph.weights)
        self._numbers = itertools.count(max(graph.avals) + 1)

    def value(self, like: int, name: str, shape: tuple[int, ...] | None = None) -> int:
        """A new activation of the dtype of another, and of its shape where none is given; its number."""
        new = next(self._numbers)
        aval = self.avals[like]
        self.avals[new], self.names[new] = aval if shape is None else Aval(shape, aval.dtype), name
        return new

    def weight(self, array: np.ndarray) -> int:
        """A new weight, float32; its number."""
        new = next(self._numbers)
        self.avals[new] = Aval(array.shape, np.dtype(np.float32))

        def call() -> Any:
            return [array.astype(np.float32)]

        self._weights.append(Equation("weight", (), (new,), {}, call))
        return new

    def graph(self, ops: Sequence[Op]) -> Graph:
        """The graph of these ops, which may read and make the new values."""
        return dataclasses.replace(
            self._old, avals=self.avals, site_names=self.names, weights=tuple(self._weights), ops=tuple(ops)
        )
