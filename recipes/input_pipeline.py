"""The input pipeline of the recipes: examples become batches through grain (https://github.com/google/grain).

    source -> shuffle in every epoch -> change each example at random -> batch -> this process's part -> read ahead

Every stage is random access: example i of epoch e has a place and a random generator that depend on the seed, e and i
alone. So a batch is a function of seed and step, whatever the number of processes, threads and workers, and a run that
resumes at a step needs no state of the pipeline.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from jaxq.errors import InputError
from jaxq.recipes.processes import Share

THREADS = 4  # that read and change examples, in this process or in each worker
AHEAD = 8  # batches that wait


class Source(Protocol):
    """Examples by number: a list, an array, `Rows`."""

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def __getitem__(self, index: int) -> Any:
        """One example: an array or a tuple of arrays."""
        ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """Several columns of equal length, arrays [n, ...] or other sources, as one: example i is the tuple of their i.

    group: so many rows that follow each other are one example, with an axis for them, or None; what is left over at the
    end is in none.
    """

    columns: tuple[Any, ...]
    group: int | None = None

    def __len__(self) -> int:
        return len(self.columns[0]) // (self.group or 1)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if self.group is None:
            return tuple(column[index] for column in self.columns)
        return tuple(column[index * self.group : (index + 1) * self.group] for column in self.columns)


class Batches(Iterator[Any]):
    """Batches of training, one for each step from `first` on.

    Args:
      source: of the examples.
      batch: examples a step, over all processes together; of groups, the rows in them.
      steps: where the run ends; the batch of an epoch's end runs over into the next.
      seed: of the order and of the changes, from 0 to 2^32 - 1.
      first: the step of the first batch.
      change: change(example, rng), for random crops and the like.
      group: of `Rows`; a batch has the rows of its groups one after the other.
      share: this process's part of every batch; all of it in a run of one process.
      workers: processes that read and change the examples. 0: threads of this process do, and decoders of pictures
        release Python's lock, so that few examples need more. A worker is sent the source: let it hold paths, not
        pictures.
      threads: 0: each batch is made when it is asked for.

    Attributes:
      waited: seconds that `next` has taken so far.

    Raises: InputError where the processes cannot share a batch equally.

    Example:
      >>> with Batches(Rows((np.arange(4), np.arange(4) % 2)), batch=2, steps=2, seed=0, threads=0) as batches:
      ...     places = np.concatenate([batch[0] for batch in batches])
      >>> sorted(places.tolist())
      [0, 1, 2, 3]
    """

    def __init__(
        self, source: Source, *, batch: int, steps: int, seed: int, first: int = 0,
        change: Callable[[Any, np.random.Generator], Any] | None = None, share: Share | None = None,
        workers: int = 0, threads: int = THREADS, group: int | None = None,
    ) -> None:  # fmt: skip
        share = Share() if share is None else share
        examples = batch // (group or 1)
        if examples % share.count:
            raise InputError(f"A batch of {batch} cannot be divided by {share.count} processes: take a multiple of it.")
        data = grain.MapDataset.source(source).seed(seed).shuffle()
        data = data if change is None else data.random_map(change)
        # The parts of all processes in turns: the examples of step s are the same for any number of processes.
        parts = data.repeat(-(-steps * examples // len(source))).batch(examples // share.count)
        parts = parts if group is None else parts.map(_rows_of_groups)
        mine = parts[first * share.count + share.index : steps * share.count : share.count]
        self.waited, self._batches = 0.0, iter(_ahead(mine, threads, workers))

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.waited += time.perf_counter() - start

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self._batches.close()


def _rows_of_groups(columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return tuple(column.reshape(-1, *column.shape[2:]) for column in columns)


def _ahead(data: grain.MapDataset[Any], threads: int, workers: int) -> grain.IterDataset[Any]:
    if workers and not flags.FLAGS.is_parsed():  # grain reads flags that only absl's own main parses
        flags.FLAGS.mark_as_parsed()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD if threads else 0)
    return data.to_iter_dataset(options).mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
