"""Examples as users give them, cut into chunks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.errors import InputError
from jaxq.frontends.core import Bound

BATCH = 64  # examples at a time


def batch_arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as call arguments: an array; a tuple of positional inputs, the last of which may be a dict of keyword
    inputs; or such a dict alone.
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if not isinstance(batch, tuple | list):
        return (batch,), {}
    return (tuple(batch[:-1]), dict(batch[-1])) if batch and isinstance(batch[-1], Mapping) else (tuple(batch), {})


def chunks(bound: Bound, batches: Any, purpose: str) -> Iterator[list[np.ndarray]]:
    """The arrays of every batch in the order of the graph's inputs, some examples at a time.

    `batches`: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these. `purpose` ends
    the sentence "examples to ...". Raises InputError for NaN.
    """
    for batch in [batches] if hasattr(batches, "shape") or isinstance(batches, tuple | Mapping) else batches:
        arrays = [np.asarray(a) for a in bound.core.arrays(*batch_arguments(batch))]
        for i, array in enumerate(arrays):
            refuse_non_finite(f"Input {i} of the examples to {purpose}", array)
        yield from in_chunks(arrays)


def in_chunks(inputs: Sequence[np.ndarray], size: int = BATCH) -> Iterator[list[np.ndarray]]:
    """The examples of several inputs together, `size` at a time."""
    for start in range(0, len(inputs[0]), size):
        yield [array[start : start + size] for array in inputs]


def refuse_non_finite(name: str, real: np.ndarray) -> None:
    """Raise InputError for NaN and infinity, which no integer stands for."""
    bad = int(np.size(real) - np.count_nonzero(np.isfinite(real)))
    if bad:
        raise InputError(f"{name} holds {bad} of {np.size(real)} values that are NaN or infinite. Clean the data.")
