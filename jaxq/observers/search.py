"""The clipping bound of least error, found by trying: a coarse grid of shrinks of the largest magnitude, then a fine
one about the best.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

COARSE = np.geomspace(2.0**-10, 1.0, 80)
FINE = np.geomspace(COARSE[0] / COARSE[1], COARSE[1] / COARSE[0], 17)


def best_bound(error: Callable[[np.ndarray], np.ndarray], largest: np.ndarray) -> np.ndarray:
    """The bound, at most `largest`, of least `error`: float64 arrays of one shape, an independent search for each
    element. Of equal errors the greatest bound wins.
    """
    best = _best_of(error, largest, COARSE, largest)
    return _best_of(error, best, FINE, largest)


def _best_of(
    error: Callable[[np.ndarray], np.ndarray], start: np.ndarray, factors: np.ndarray, largest: np.ndarray
) -> np.ndarray:
    best, least = largest, error(largest)
    for factor in factors[::-1]:
        bound = np.minimum(start * factor, largest)
        found = error(bound)
        best, least = np.where(found < least, bound, best), np.minimum(found, least)
    return best
