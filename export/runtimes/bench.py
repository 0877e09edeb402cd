"""Latency of files under LiteRT: contestants take turns, so that what else the machine does slows all of them alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxq.export.runtimes import litert


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
    """Each contestant's turn in every round, another one first each time, in a process of its own.

    The first invocation of a turn is not counted: it finds the caches as another contestant left them.

    Raises ExportError where LiteRT is missing, refuses a file or dies of it.
    """
    found = litert.timed([litert.Timed(c.data, c.inputs, c.threads) for c in contestants], rounds)
    return [Latency(c, seconds) for c, seconds in zip(contestants, found, strict=True)]
