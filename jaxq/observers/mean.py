"""The average of each batch's [min, max] (Qwix's default). It clips what is rare in a batch: of a classifier's logits,
for example, one in ten.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxq.observers.observer import Batch, Observer, Wanted


class Mean(NamedTuple):
    """The sum of [min, max] over so many batches."""

    total: np.ndarray
    batches: int


def start() -> Mean:
    """No batch."""
    return Mean(np.zeros(2), 0)


def update(state: Mean, batch: Batch) -> Mean:
    """One batch more."""
    return Mean(state.total + batch.extremes, state.batches + 1)


def finish(state: Mean, wanted: Wanted) -> tuple[float, float]:
    """[low, high], the averages."""
    low, high = state.total / max(state.batches, 1)
    return float(low), float(high)


MEAN = Observer(start, update, finish)
