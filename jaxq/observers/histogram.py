"""Counts of the numbers seen, in memory of fixed size: what percentile, MSE and entropy calibration read.

The bounds are symmetric and double when a number falls outside: two neighbouring bins merge then, so one pass over any
amount of data suffices and nothing is forgotten.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxq.observers.observer import Batch

BINS = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of BINS equal bins over [-bound, bound]; bound 0 before any data. low, high: the least and greatest number
    counted.
    """

    bound: float
    counts: np.ndarray
    low: float = np.inf
    high: float = -np.inf

    @property
    def edges(self) -> np.ndarray:
        """The BINS + 1 edges of the bins."""
        return np.linspace(-self.bound, self.bound, BINS + 1)


def start() -> Histogram:
    """An empty histogram."""
    return Histogram(0.0, np.zeros(BINS, np.int64))


def widen(state: Histogram, extreme: float) -> Histogram:
    """The same counts in a histogram that holds [-extreme, extreme]."""
    if state.bound == 0.0:
        return dataclasses.replace(state, bound=max(extreme, 1e-30))
    bound, counts = state.bound, state.counts
    while bound < extreme:
        quarter = np.zeros(BINS // 4, np.int64)
        counts = np.concatenate([quarter, counts.reshape(-1, 2).sum(1), quarter])
        bound *= 2.0
    return dataclasses.replace(state, bound=bound, counts=counts)


def update(state: Histogram, batch: Batch) -> Histogram:
    """The histogram with a batch's numbers counted."""
    for values in batch.values:
        state = _counted(state, values)
    return state


def _counted(state: Histogram, values: np.ndarray) -> Histogram:
    state = widen(state, float(np.max(np.abs(values))))
    scaled = (np.asarray(values, np.float64).reshape(-1) / state.bound + 1.0) * (BINS / 2)
    counts = np.bincount(np.clip(scaled.astype(np.int64), 0, BINS - 1), minlength=BINS)
    low, high = min(state.low, float(np.min(values))), max(state.high, float(np.max(values)))
    return Histogram(state.bound, state.counts + counts, low, high)
