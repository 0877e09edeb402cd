"""The range of least mean squared error, rounding and clipping together (Wu et al. 2020, section 4; Nagel et al. 2021,
section 3.1):

    argmin over [l, h] of E[(Q(x) - x)^2],   Q the quantizer that covers [l, h]

An asymmetric range is searched at both ends in turn. The range is scored as it will be used, with its zero point
rounded. The error within a bin of the histogram is that of numbers spread evenly over it, in closed form, so that the
histogram may be coarser than the grid (16 bits).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxq.observers import histogram
from jaxq.observers.histogram import Histogram
from jaxq.observers.observer import Observer, Wanted
from jaxq.observers.search import best_bound
from jaxq.plan.scheme import Grid

ROUNDS = 3  # of the search over both ends


def finish(state: Histogram, wanted: Wanted) -> tuple[float, float]:
    """[low, high] of least error on the numbers counted."""
    low, high = min(state.low, 0.0), max(state.high, 0.0)
    error = _error_on(state)
    if wanted.grid.symmetric or wanted.grid.nonnegative:
        bound = float(best_bound(_each(lambda b: error(-b, b, wanted.grid)), np.asarray(max(-low, high))))
        return max(low, -bound), min(high, bound)
    return _both_ends(lambda lo, hi: error(lo, hi, wanted.grid), low, high)


def _both_ends(error: Callable[[float, float], float], low: float, high: float) -> tuple[float, float]:
    """One end after the other, each with the other held, from the widest range on."""
    least, most = low, high
    for _ in range(ROUNDS):
        before = low, high
        if most > 0.0:
            high = float(best_bound(_each(lambda b, lo=low: error(lo, b)), np.asarray(most)))
        if least < 0.0:
            low = -float(best_bound(_each(lambda b, hi=high: error(-b, hi)), np.asarray(-least)))
        if (low, high) == before:
            break
    return low, high


def _each(error: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda bound: np.asarray(error(float(bound)))


def _error_on(state: Histogram) -> Callable[[float, float, Grid], float]:
    """The sum of squared errors over the histogram, of a range's grid."""
    used = np.flatnonzero(state.counts)
    left, right = np.maximum(state.edges[used], state.low), np.minimum(state.edges[used + 1], state.high)
    width = np.maximum(right - left, 1e-12 * state.bound)
    weight, left, right = state.counts[used] / width, left, left + width

    def error(low: float, high: float, grid: Grid) -> float:
        scale, least, greatest = grid_of(low, high, grid)
        ends = (_integral(x / scale, least, greatest) for x in (right, left))
        return float(np.sum(weight * (next(ends) - next(ends)))) * scale**3

    return error


def grid_of(low: float, high: float, grid: Grid) -> tuple[float, float, float]:
    """The scale of a grid that covers [low, high] and zero, and its least and greatest integer less the zero point."""
    if grid.symmetric:
        return max(-low, high) / grid.qmax, float(grid.qmin), float(grid.qmax)
    if grid.nonnegative:
        return high / (grid.qmax - grid.qmin), 0.0, float(grid.qmax - grid.qmin)
    scale = (high - low) / (grid.qmax - grid.qmin)
    zero_point = float(np.clip(np.rint(grid.qmin - low / scale), grid.qmin, grid.qmax))
    return scale, grid.qmin - zero_point, grid.qmax - zero_point


def _integral(u: np.ndarray, least: float, greatest: float) -> np.ndarray:
    """The integral of `(clip(round(u), least, greatest) - u)^2`, but for a constant."""
    q = np.clip(np.rint(u), least, greatest)
    return (u - q) ** 3 / 3.0 + q / 12.0


def weight_bound(w: np.ndarray, qmax: int) -> np.ndarray:
    """Per channel of the last axis, the clipping magnitude of least squared error. Shape (channels,)."""
    rows = np.asarray(w, np.float32).reshape(-1, w.shape[-1])

    def error(bound: np.ndarray) -> np.ndarray:
        scale = np.maximum(bound, 1e-30).astype(np.float32) / np.float32(qmax)
        q = np.clip(np.rint(rows / scale), -qmax, qmax)
        return np.asarray(np.sum(np.square(q * scale - rows), axis=0, dtype=np.float64))

    return best_bound(error, np.max(np.abs(rows), axis=0).astype(np.float64))


MSE = Observer(histogram.start, histogram.update, finish, reads_values=True)
