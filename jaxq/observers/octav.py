"""The clipping bound of weights of least expected squared error, by Newton's iteration (Sakr et al. 2022, "Optimal
clipping and magnitude-aware differentiation for improved quantization-aware training", eq. 6):

    s <- sum |w| [|w| > s] / (4^-b / 3 * #[0 < |w| <= s] + #[|w| > s])

b is the number of bits. The rounding error is that of numbers spread evenly within a step.
"""

from __future__ import annotations

import numpy as np

ITERATIONS = 20


def weight_bound(w: np.ndarray, qmax: int) -> np.ndarray:
    """Per channel of the last axis, the clipping magnitude. Shape (channels,)."""
    magnitudes = np.abs(np.asarray(w, np.float64)).reshape(-1, w.shape[-1])
    rounding = 4.0 ** -np.log2(2 * (qmax + 1)) / 3.0
    bound = magnitudes.mean(axis=0)
    for _ in range(ITERATIONS):
        beyond = magnitudes > bound
        inside = np.count_nonzero(~beyond & (magnitudes > 0), axis=0)
        weighed = rounding * inside + np.count_nonzero(beyond, axis=0)
        bound = np.sum(magnitudes * beyond, axis=0) / np.maximum(weighed, 1e-30)
    return np.minimum(np.where(bound > 0, bound, np.max(magnitudes, axis=0)), np.max(magnitudes, axis=0))
