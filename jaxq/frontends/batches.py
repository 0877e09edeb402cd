"""Examples as users give them, cut into chunks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.errors import InputError
from jaxq.frontends.call import places, split_call
from jaxq.frontends.core import Bound
from jaxq.frontends.signature import Arguments

BATCH = 64  # examples at a time


def batch_arguments(bound: Bound, batch: Any) -> Arguments:
    """A batch as call arguments: an array; a tuple of positional inputs, the last of which may be a dict of keyword
    inputs; or such a dict alone. A dict is one positional input where that of the example is.
    """
    readings, known = [bound.core.as_example(*r) for r in _readings(batch)], places(*bound.core.example)
    return next((reading for reading in readings if places(*reading) == known), readings[0])


def batches_of(bound: Bound, batches: Any) -> Iterable[Any]:
    """Calibration data as batches: an array of examples in parts of `BATCH`, a dict of inputs alone, else as it is."""
    if isinstance(batches, Mapping):
        return [batches]
    first = split_call(*bound.core.example).arrays[0]
    _refuse_no_iterable(batches)
    if getattr(batches, "ndim", None) == len(first.shape):
        return (batches[start : start + BATCH] for start in range(0, len(batches), BATCH))
    return batches


def _refuse_no_iterable(batches: Any) -> None:
    if not isinstance(batches, Iterable) or isinstance(batches, str | bytes):
        raise InputError(
            f"The data is a {type(batches).__name__}. Give an array of examples, a tuple or dict of arrays (several "
            "inputs), or an iterable of these."
        )


def _readings(batch: Any) -> list[Arguments]:
    if isinstance(batch, Mapping):
        return [((), dict(batch)), ((batch,), {})]
    if not isinstance(batch, tuple | list):
        return [((batch,), {})]
    positional = [(tuple(batch), dict[str, Any]()), ((batch,), dict[str, Any]())]
    if batch and isinstance(batch[-1], Mapping):
        return [(tuple(batch[:-1]), dict(batch[-1])), *positional]
    return positional


def chunks(bound: Bound, batches: Any, purpose: str, size: int = BATCH) -> Iterator[list[np.ndarray]]:
    """The arrays of every batch in the order of the graph's inputs, some examples at a time.

    Args:
      bound: the model.
      batches: an array of examples, a tuple or dict of inputs, or an iterable of these. An input
        without a batch (`jaxq.graph.batch.batched_inputs`) is in every chunk, whole.
      purpose: ends the sentence "examples to ...".
      size: of a chunk.

    Raises: InputError for NaN, other shapes, and what is no data.
    """
    _refuse_no_iterable(batches)
    for batch in [batches] if hasattr(batches, "shape") or isinstance(batches, tuple | Mapping) else batches:
        arrays = [np.asarray(a) for a in bound.core.arrays(*batch_arguments(bound, batch))]
        for i, array in enumerate(arrays):
            refuse_non_finite(f"Input {i} of the examples to {purpose}", array)
        bound.core.check_shapes(arrays)
        yield from in_chunks(arrays, bound.core.batched(arrays), size)


def file_chunks(bound: Bound, batches: Any, purpose: str) -> Iterator[list[np.ndarray]]:
    """As `chunks`, for the file: of as many examples as the example of `jaxq.quantize` holds, or where that is one, of
    any number, and then each input of one row has a row for each example.

    Raises: InputError for NaN, and where the examples are no multiple of the file's batch.
    """
    known = [a.shape for a in bound.core.arrays(*bound.core.example)]
    batch = bound.core.examples(bound.core.arrays(*bound.core.example))
    for arrays in chunks(bound, batches, purpose, BATCH if batch == 1 else batch):
        count = bound.core.examples(arrays)
        if batch not in (1, count):
            raise InputError(
                f"{count} of the examples to {purpose} are left over: the file takes {batch} at a time, as the example "
                f"of jaxq.quantize. Give a multiple of {batch}, or quantize with an example of one."
            )
        yield [_rows(a, count) if shape[:1] == (1,) else a for a, shape in zip(arrays, known, strict=True)]


def joined(bound: Bound, batches: Any, purpose: str, most: int | None = None) -> list[np.ndarray]:
    """The examples of all batches, at most `most`, as one array for each input; none where there is no example."""
    found, seen = [], 0
    for arrays in chunks(bound, batches, purpose):
        found.append(arrays)
        seen += bound.core.examples(arrays)
        if most is not None and seen >= most:
            break
    batched = bound.core.batched(found[0]) if found else ()
    parts = zip(zip(*found, strict=True), batched, strict=True)
    return [np.concatenate(arrays)[:most] if own else arrays[0] for arrays, own in parts]


def _rows(array: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(array, (count, *array.shape[1:])) if len(array) == 1 else array


def in_chunks(inputs: Sequence[np.ndarray], batched: Sequence[bool], size: int = BATCH) -> Iterator[list[np.ndarray]]:
    """The examples of several inputs together, `size` at a time; inputs without a batch whole."""
    count = next((len(array) for array, own in zip(inputs, batched, strict=True) if own), 1)
    for start in range(0, count, size):
        ends = zip(inputs, batched, strict=True)
        yield [array[start : start + size] if own else array for array, own in ends]


def refuse_non_finite(name: str, real: np.ndarray) -> None:
    """Raise InputError for NaN and infinity, which no integer stands for."""
    bad = int(np.size(real) - np.count_nonzero(np.isfinite(real)))
    if bad:
        raise InputError(f"{name} holds {bad} of {np.size(real)} values that are NaN or infinite. Clean the data.")
