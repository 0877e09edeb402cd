"""The multiple-choice knapsack problem, solved exactly.

    min over c of sum_i cost[i][c_i]   subject to   sum_i size[i][c_i] <= budget

By dynamic programming over the sums that are worth keeping: of two partial choices, one that is neither smaller nor
better than the other is dropped (Kellerer, Pferschy and Pisinger 2004, "Knapsack problems", chapter 11). Sizes are
whole numbers, so there are at most `budget` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class _Layer(NamedTuple):
    """Of each partial choice that is kept: what it sums to, and where it comes from."""

    size: np.ndarray
    cost: np.ndarray
    parent: np.ndarray
    choice: np.ndarray


def choose(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int) -> list[int] | None:
    """The choice of least cost for each item; of equal costs the smallest. None where nothing fits the budget.

    Args:
      costs: of each item, of each of its choices; of any sign.
      sizes: the same, in whole units, not negative.
      budget: in the same units.
    """
    least = np.array([min(s) for s in sizes], np.int64)
    rest = np.append(np.cumsum(least[::-1])[::-1], 0)  # what the items from i on need at least
    layer, layers = _Layer(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, int), np.zeros(1, int)), list[_Layer]()
    for i, (cost, size) in enumerate(zip(costs, sizes, strict=True)):
        layer = _extended(layer, np.asarray(cost, float), np.asarray(size, np.int64), budget - int(rest[i + 1]))
        layers.append(layer)
    return _traced(layers) if len(layer.size) else None


def _extended(before: _Layer, cost: np.ndarray, size: np.ndarray, most: int) -> _Layer:
    sizes = (before.size[:, None] + size).ravel()
    costs = (before.cost[:, None] + cost).ravel()
    order = np.lexsort((costs, sizes))
    order = order[sizes[order] <= most]
    sorted_costs = costs[order]
    better = np.append(True, sorted_costs[1:] < np.minimum.accumulate(sorted_costs)[:-1])[: len(order)]
    kept = order[better]
    return _Layer(sizes[kept], costs[kept], kept // len(cost), kept % len(cost))


def _traced(layers: Sequence[_Layer]) -> list[int]:
    """The choices that lead to the last of the partial choices, which costs the least."""
    found, at = list[int](), -1
    for layer in reversed(layers):
        found.append(int(layer.choice[at]))
        at = int(layer.parent[at])
    return found[::-1]
