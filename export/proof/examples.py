"""The arrays of a call as examples of the graph that a file holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxq.graph import Graph


def apart(graph: Graph, arrays: Sequence[Any]) -> tuple[list[Any], frozenset[int]]:
    """The inputs for a graph, and which of them have an axis of examples before the graph's shape.

    Args:
      graph: of the file's shapes.
      arrays: one for each of its inputs: of the graph's shapes, or with a batch in the place of their leading 1.

    Returns:
      The arrays as they are and no batch where all have the graph's shapes; else those whose shape in the graph begins
      with 1 as (batch, 1, ...), and their values.
    """
    shapes = [graph.avals[v].shape for v in graph.inputs]
    if [a.shape for a in arrays] == shapes:
        return list(arrays), frozenset()
    batched = frozenset(v for v, shape in zip(graph.inputs, shapes, strict=True) if shape[:1] == (1,))
    return [np.asarray(a)[:, None] if v in batched else a for v, a in zip(graph.inputs, arrays, strict=True)], batched
