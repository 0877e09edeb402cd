"""Latency of files under LiteRT: contestants take turns, so that what else the machine does slows all of them alike."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from jaxq.export.runtimes import litert

TURN_SECONDS = 0.03  # a turn lasts about this long, and has between these many invocations
FEWEST, MOST = 2, 30


@dataclasses.dataclass(frozen=True, eq=False)
class Contestant:
    """A file, the threads that it runs on, and its inputs in the file's shapes and types."""

    name: str
    data: bytes
    threads: int
    inputs: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Latency:
    """Seconds of each invocation of a contestant, [rounds, invocations of a turn]."""

    contestant: Contestant
    seconds: np.ndarray

    @property
    def median(self) -> float:
        """The middle of all invocations, seconds."""
        return float(np.median(self.seconds))

    @property
    def least(self) -> float:
        """The shortest invocation, seconds."""
        return float(self.seconds.min())

    def percentile(self, share: int) -> float:
        """Seconds that `share` percent of the invocations do not exceed."""
        return float(np.percentile(self.seconds, share))

    def ratio(self, other: Latency) -> float:
        """Times `other`: the median, over the rounds, of the ratio of the two turns' medians."""
        return float(np.median(np.median(self.seconds, axis=1) / np.median(other.seconds, axis=1)))


def measure(contestants: Sequence[Contestant], rounds: int = 50) -> list[Latency]:
    """Each contestant's turn in every round, another one first each time.

    The first invocation of a turn is not counted: it finds the caches as another contestant left them.

    Raises ExportError where LiteRT is missing or refuses a file.
    """
    invokes = [litert.prepared(c.data, c.inputs, c.threads) for c in contestants]
    counts = [_invocations(invoke) for invoke in invokes]
    found: list[list[list[float]]] = [[] for _ in contestants]
    for i in range(rounds):
        for j in range(len(contestants)):
            k = (i + j) % len(contestants)
            found[k].append(_turn(invokes[k], counts[k]))
    return [Latency(c, np.array(seconds)) for c, seconds in zip(contestants, found, strict=True)]


def _turn(invoke: Callable[[], None], count: int) -> list[float]:
    invoke()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        invoke()
        seconds.append(time.perf_counter() - start)
    return seconds


def _invocations(invoke: Callable[[], None]) -> int:
    """How many invocations make a turn, after two that warm up."""
    once = min(_turn(invoke, 2))
    return min(MOST, max(FEWEST, math.ceil(TURN_SECONDS / once)))
