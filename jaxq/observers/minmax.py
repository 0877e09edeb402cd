"""Least and greatest number seen (Jacob et al. 2018, section 3.1, for weights; the plainest calibration)."""

from __future__ import annotations

import numpy as np


def start() -> np.ndarray:
    """The empty range, [inf, -inf]."""
    return np.array([np.inf, -np.inf], np.float32)


def update(state: np.ndarray, extremes: np.ndarray) -> np.ndarray:
    """The range that also holds `extremes`, a batch's [min, max]."""
    return np.array([min(state[0], extremes[0]), max(state[1], extremes[1])], np.float32)


def finish(state: np.ndarray) -> tuple[float, float]:
    """[low, high] in real units."""
    return float(state[0]), float(state[1])
