"""Examples with their labels, as the commands that measure a model read them."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np

from jaxq.cli.data import read_arrays, refuse_non_finite
from jaxq.cli.failures import usage
from jaxq.errors import InputError


class Examples(NamedTuple):
    """The arrays of the inputs, and the labels, one for each example, if there are any."""

    arrays: tuple[np.ndarray, ...]
    labels: np.ndarray | None


def read_examples(data: pathlib.Path | None, labels: pathlib.Path | None) -> Examples:
    """The examples of a file and the labels of another. Raises InputError, or a usage error without data."""
    if data is None:
        raise usage("Give --data inputs.npy to measure on.")
    arrays = tuple(read_arrays(data))
    refuse_non_finite(data, arrays)
    if labels is None:
        return Examples(arrays, None)
    (found, *more) = read_arrays(labels)
    if more or len(found) != len(arrays[0]):
        raise InputError(
            f"{labels} holds {1 + len(more)} arrays, the first with {len(found)} labels; {data} holds "
            f"{len(arrays[0])} examples. Give one array with one label for each example."
        )
    return Examples(arrays, np.asarray(found))
