"""Least and greatest number seen (Jacob et al. 2018, section 3.1, for weights; the plainest calibration)."""

from __future__ import annotations

import numpy as np

from jaxq.observers.observer import Batch, Observer, Wanted


def start() -> np.ndarray:
    """The empty range, [inf, -inf]."""
    return np.array([np.inf, -np.inf], np.float32)


def update(state: np.ndarray, batch: Batch) -> np.ndarray:
    """The range that also holds a batch."""
    low, high = batch.extremes
    return np.array([min(state[0], low), max(state[1], high)], np.float32)


def finish(state: np.ndarray, wanted: Wanted) -> tuple[float, float]:
    """[low, high] in real units."""
    return float(state[0]), float(state[1])


def weight_bound(w: np.ndarray, qmax: int) -> np.ndarray:
    """Per channel of the last axis, the largest magnitude. Shape (channels,)."""
    return np.asarray(np.max(np.abs(w), axis=tuple(range(w.ndim - 1))))


MINMAX = Observer(start, update, finish)
