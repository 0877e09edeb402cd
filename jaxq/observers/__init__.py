"""How the range of a tensor comes from calibration data: one method, one short file, and one row of a table.

METHODS are for activations, whose numbers stream past; WEIGHT_METHODS for weights, which are all there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxq.observers import minmax, mse, octav
from jaxq.observers.entropy import ENTROPY
from jaxq.observers.mean import MEAN
from jaxq.observers.minmax import MINMAX
from jaxq.observers.mse import MSE
from jaxq.observers.observer import Batch as Batch
from jaxq.observers.observer import Observer as Observer
from jaxq.observers.observer import Wanted as Wanted
from jaxq.observers.percentile import PERCENTILE

METHODS: dict[str, Observer] = {
    "entropy": ENTROPY,
    "mean": MEAN,
    "minmax": MINMAX,
    "mse": MSE,
    "percentile": PERCENTILE,
}

# (weights, greatest integer) -> the magnitude that the greatest integer stands for, per channel of the last axis.
WEIGHT_METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "max": minmax.weight_bound,
    "mse": mse.weight_bound,
    "octav": octav.weight_bound,
}
