"""The range that leaves out the rarest numbers at both ends (Wu et al. 2020, section 4: 99.9 to 99.9999 %)."""

from __future__ import annotations

import numpy as np

from jaxq.observers import histogram
from jaxq.observers.histogram import BINS, Histogram
from jaxq.observers.observer import Observer, Wanted


def finish(state: Histogram, wanted: Wanted) -> tuple[float, float]:
    """[low, high] that holds `percentile` per cent of the numbers, the rest split between both ends."""
    share = np.cumsum(state.counts) / max(int(state.counts.sum()), 1)
    tail = (100.0 - wanted.percentile) / 200.0
    first = int(np.searchsorted(share, tail, side="right"))
    last = int(np.searchsorted(share, 1.0 - tail, side="left"))
    return float(state.edges[min(first, BINS - 1)]), float(state.edges[min(last, BINS - 1) + 1])


PERCENTILE = Observer(histogram.start, histogram.update, finish, reads_values=True)
