"""What an observer is: a calibration method, as pure functions over numpy arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxq.plan.scheme import Grid


class Batch(NamedTuple):
    """What one batch gives of a tensor, or of the tensors that share its range.

    extremes: (2,), [min, max]. values: the numbers themselves, arrays of any shape; none for an observer that does not
    read them.
    """

    extremes: np.ndarray
    values: Sequence[np.ndarray] = ()


class Wanted(NamedTuple):
    """What the range is for. grid: the integers that it is spread over. percentile: of the recipe."""

    grid: Grid
    percentile: float


@dataclasses.dataclass(frozen=True)
class Observer:
    """One way to find a range in data that is read once.

    The state's size does not depend on how much data is seen. start(): the empty state. update(state, batch): the state
    after a batch. finish(state, wanted): (low, high), in real units. reads_values: whether `update` reads more of a
    batch than its [min, max].
    """

    start: Callable[[], Any]
    update: Callable[[Any, Batch], Any]
    finish: Callable[[Any, Wanted], tuple[float, float]]
    reads_values: bool = False
