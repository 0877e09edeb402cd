"""Arrays in a .npy or .npz file as the inputs of a file: one example."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxq.cli.data import file_batches, read_arrays, refuse_non_finite
from jaxq.errors import InputError
from jaxq.export.io_formulas import described, formula, prepared
from jaxq.export.metadata import Metadata, completed
from jaxq.export.program import Program, Tensor


def file_inputs(path: pathlib.Path, program: Program, metadata: Metadata) -> list[np.ndarray]:
    """The inputs of a file, in their types, from the arrays of a file, one for each, with or without the batch axis.

    Bytes become pixels where the metadata has a normalization, other real numbers are quantized, and integers of the
    input's own type are taken as they are. Raises InputError where they do not fit, or are several examples.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}. Save the input: np.save({str(path)!r}, x)")
    given = read_arrays(path)
    refuse_non_finite(path, given)
    tensors = [program.tensors[i] for i in program.inputs]
    if len(given) == len(tensors):
        given = [_batched(array, tensor) for array, tensor in zip(given, tensors, strict=True)]
        said = completed(dataclasses.replace(metadata, outputs=()), program).inputs
        entries = described([formula(t.name, t) for t in tensors], said)
        given = [_from_pixels(array, entry) for array, entry in zip(given, entries, strict=True)]
    batch, *more = file_batches(program, given)
    if more or len(batch[0]) > 1 and tensors[0].shape[:1] == (1,):
        raise InputError(
            f"{path} holds {len(given[0])} examples, and jaxq infer takes one. Save one: np.save(F, x[:1])"
        )
    return batch


def _batched(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The array of one example, with its batch axis."""
    return array[None] if tensor.shape == (1, *array.shape) else array


def _from_pixels(array: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Pixels as the file takes them; other numbers as they are."""
    pixels = array.dtype == np.uint8 and "mean" in entry and list(array.shape) == entry["shape"]
    return prepared(array, entry) if pixels else array
