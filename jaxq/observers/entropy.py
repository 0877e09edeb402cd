"""The range that loses the least information (Migacz 2017, "8-bit inference with TensorRT"; Wu et al. 2020, section 4):

    argmin over T of KL(P || Q)

P is the histogram of magnitudes up to T, with everything above T in its last bin. Q is the same without that, merged
into as many levels as the grid has on one side and spread evenly over the bins of each level that are not empty. The
range is [-T, T], as far as there is data. The zeros of a ReLU, which any range holds exactly, would outweigh all else:
the first bin counts as much as the second.
"""

from __future__ import annotations

import numpy as np

from jaxq.observers import histogram
from jaxq.observers.histogram import BINS, Histogram
from jaxq.observers.observer import Observer, Wanted
from jaxq.plan.scheme import Grid


def finish(state: Histogram, wanted: Wanted) -> tuple[float, float]:
    """[low, high] of least divergence."""
    magnitudes = state.counts[BINS // 2 :] + state.counts[: BINS // 2][::-1]
    bins = best_length(np.trim_zeros(magnitudes, "b"), levels(wanted.grid))
    threshold = bins * state.bound / (BINS // 2)
    return max(state.low, -threshold), min(state.high, threshold)


def levels(grid: Grid) -> int:
    """How many integers of a grid stand for magnitudes: 128 of int8, all 256 where nothing is negative."""
    return (grid.qmax + 1) * (2 if grid.nonnegative else 1)


def best_length(counts: np.ndarray, levels: int) -> int:
    """How many of the first bins to keep, `levels` at least: the most of those of least divergence."""
    if len(counts) <= levels:
        return len(counts)
    counts = np.concatenate([counts[1:2], counts[1:]]).astype(np.float64)
    lengths = np.arange(levels, len(counts) + 1)
    divergences = np.array([_divergence(counts, int(length), levels) for length in lengths])
    return int(lengths[::-1][np.argmin(divergences[::-1])])


def _divergence(counts: np.ndarray, length: int, levels: int) -> float:
    """KL(P || Q) of the first `length` bins."""
    kept, beyond = counts[:length], float(counts[length:].sum())
    edges = -(-np.arange(levels) * length // levels)  # of each level, its first bin
    sums, filled = np.add.reduceat(kept, edges), np.add.reduceat((kept > 0).astype(np.float64), edges)
    spread = np.repeat(sums / np.maximum(filled, 1.0), np.diff(np.append(edges, length)))
    p, q = kept.copy(), np.where(kept > 0, spread, 0.0)
    p[-1] += beyond
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p * q.sum() / (q * p.sum())), 0.0)
    return float(terms.sum() / p.sum())


ENTROPY = Observer(histogram.start, histogram.update, finish, reads_values=True)
