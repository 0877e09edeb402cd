"""Where the nodes of a directed acyclic graph go on a page: layers from top to bottom, few crossings, short edges.

The method is that of Sugiyama, Tagawa and Toda 1981 ("Methods for Visual Understanding of Hierarchical System
Structures"): a node's layer is the longest path to it; an edge over several layers passes through a place in each; the
order within a layer follows the mean of the neighbours' places, up and down in turns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

SWEEPS = 6  # down and up
Place = tuple[int, int, int]  # a node (node, node, layer), or where an edge (from, to) passes a layer


@dataclasses.dataclass(frozen=True)
class Layout:
    """Columns and layers, in units of a node's width and height with its gap; columns may be fractions.

    places: (column, layer) of each node. paths: of each edge (from, to) the (column, layer) of every point on its way.
    """

    places: tuple[tuple[float, int], ...]
    paths: Mapping[tuple[int, int], tuple[tuple[float, int], ...]]
    columns: float
    layers: int


def layout(reads: Sequence[Sequence[int]]) -> Layout:
    """Lay out a graph.

    Args:
      reads: for each node the nodes that it reads, all of them before it.

    Returns: the places, the least column 0.
    """
    layers = _layers(reads)
    edges = [(a, b) for b, sources in enumerate(reads) for a in dict.fromkeys(sources)]
    chains = {(a, b): _chain(a, b, layers) for a, b in edges}
    rows = _rows(layers, chains)
    above, below = _neighbours(chains)
    for _ in range(SWEEPS):
        rows = _ordered(rows, above)
        rows = _ordered(rows[::-1], below)[::-1]
    columns = _columns(rows, above, below)
    least = min(columns.values(), default=0.0)
    at = {place: (column - least, place[2]) for place, column in columns.items()}
    paths = {edge: tuple(at[p] for p in chain) for edge, chain in chains.items()}
    places = tuple(at[_node(n, layers)] for n in range(len(reads)))
    return Layout(places, paths, max((c for c, _ in at.values()), default=0.0) + 1, max(layers, default=-1) + 1)


def _layers(reads: Sequence[Sequence[int]]) -> list[int]:
    """The longest path to each node; a node that reads nothing stands right above the first that reads it."""
    layers: list[int] = []
    for sources in reads:
        layers.append(max((layers[s] + 1 for s in sources), default=0))
    for node, sources in enumerate(reads):
        readers = [layers[b] for b, read in enumerate(reads) if node in read] if not sources else []
        layers[node] = min(readers) - 1 if readers else layers[node]
    return layers


def _node(node: int, layers: Sequence[int]) -> Place:
    return (node, node, layers[node])


def _chain(a: int, b: int, layers: Sequence[int]) -> list[Place]:
    return [_node(a, layers), *((a, b, layer) for layer in range(layers[a] + 1, layers[b])), _node(b, layers)]


def _rows(layers: Sequence[int], chains: Mapping[tuple[int, int], list[Place]]) -> list[list[Place]]:
    rows: list[list[Place]] = [[] for _ in range(max(layers, default=-1) + 1)]
    for node, layer in enumerate(layers):
        rows[layer].append(_node(node, layers))
    for chain in chains.values():
        for place in chain[1:-1]:
            rows[place[2]].append(place)
    return rows


def _neighbours(
    chains: Mapping[tuple[int, int], list[Place]],
) -> tuple[dict[Place, list[Place]], dict[Place, list[Place]]]:
    """The places right above and right below each."""
    above: dict[Place, list[Place]] = {}
    below: dict[Place, list[Place]] = {}
    for chain in chains.values():
        for upper, lower in zip(chain, chain[1:], strict=False):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _ordered(rows: list[list[Place]], beside: Mapping[Place, list[Place]]) -> list[list[Place]]:
    """Each row by the mean place of its neighbours in the row before it."""
    at: dict[Place, float] = {}
    found = []
    for row in rows:
        own = {place: float(i) for i, place in enumerate(row)}
        means = {p: sum(at[q] for q in beside[p]) / len(beside[p]) if p in beside else own[p] for p in row}
        ordered = sorted(row, key=lambda p: (means[p], own[p]))
        at |= {place: i - (len(ordered) - 1) / 2 for i, place in enumerate(ordered)}
        found.append(ordered)
    return found


def _columns(
    rows: Sequence[Sequence[Place]], above: Mapping[Place, list[Place]], below: Mapping[Place, list[Place]]
) -> dict[Place, float]:
    """Every place near the mean of its neighbours, no two of a row less than their widths apart."""
    at = {p: i - (len(row) - 1) / 2 for row in rows for i, p in enumerate(row)}
    for sweep in range(2 * SWEEPS):
        beside = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = [sum(at[q] for q in beside[p]) / len(beside[p]) if p in beside else at[p] for p in row]
            at |= dict(zip(row, _apart(row, wanted), strict=True))
    return at


def _apart(row: Sequence[Place], wanted: Sequence[float]) -> list[float]:
    """The wanted columns, moved apart where they are too near: the mean of a pass from each side."""
    gaps = [(_width(a) + _width(b)) / 2 for a, b in zip(row, row[1:], strict=False)]
    left, right = list(wanted), list(wanted)
    for i, gap in enumerate(gaps):
        left[i + 1] = max(left[i + 1], left[i] + gap)
    for i, gap in reversed(list(enumerate(gaps))):
        right[i] = min(right[i], right[i + 1] - gap)
    return [(a + b) / 2 for a, b in zip(left, right, strict=True)]


def _width(place: Place) -> float:
    """A node takes a column, an edge that passes by a fifth of one."""
    return 1.0 if place[0] == place[1] else 0.2
