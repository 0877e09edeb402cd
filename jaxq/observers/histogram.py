"""The range that leaves out the rarest numbers at both ends (Wu et al. 2020, section 4, calibrate by 99.9 to 99.9999
%).

A histogram of fixed size whose bounds are symmetric and double when a number falls outside: two neighbouring bins
merge then, so one pass over any amount of data suffices and nothing is forgotten.
"""

from __future__ import annotations

import dataclasses

import numpy as np

BINS = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of BINS equal bins over [-bound, bound]; bound 0 before any data."""

    bound: float
    counts: np.ndarray


def start() -> Histogram:
    """An empty histogram."""
    return Histogram(0.0, np.zeros(BINS, np.int64))


def widen(state: Histogram, extreme: float) -> Histogram:
    """The same counts in a histogram that holds [-extreme, extreme]."""
    if state.bound == 0.0:
        return Histogram(max(extreme, 1e-30), state.counts)
    bound, counts = state.bound, state.counts
    while bound < extreme:
        quarter = np.zeros(BINS // 4, np.int64)
        counts = np.concatenate([quarter, counts.reshape(-1, 2).sum(1), quarter])
        bound *= 2.0
    return Histogram(bound, counts)


def update(state: Histogram, values: np.ndarray) -> Histogram:
    """The histogram with a batch's numbers (any shape) counted."""
    state = widen(state, float(np.max(np.abs(values))))
    scaled = (np.asarray(values, np.float64).reshape(-1) / state.bound + 1.0) * (BINS / 2)
    counts = np.bincount(np.clip(scaled.astype(np.int64), 0, BINS - 1), minlength=BINS)
    return Histogram(state.bound, state.counts + counts)


def finish(state: Histogram, percentile: float) -> tuple[float, float]:
    """[low, high] that holds `percentile` per cent of the numbers, the rest split between both ends."""
    share = np.cumsum(state.counts) / max(int(state.counts.sum()), 1)
    tail = (100.0 - percentile) / 200.0
    edges = np.linspace(-state.bound, state.bound, BINS + 1)
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1.0 - tail, side="left"))
    return float(edges[min(first, BINS - 1)]), float(edges[min(last, BINS - 1) + 1])
