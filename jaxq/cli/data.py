"""Input data of a command: arrays from .npy and .npz files, or drawn at random, in the types that a file takes."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from jaxq.errors import InputError
from jaxq.export.program import Program, Tensor, describe

BATCH = 64  # examples at a time


def read_arrays(path: pathlib.Path) -> list[np.ndarray]:
    """The arrays of a file, one for each input, with their examples along the first axis. Raises InputError."""
    try:
        arrays = _loaded(path)
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(f"{path} is not an .npy or .npz file of numbers: {str(e).splitlines()[0]}") from e
    for array in arrays:
        if array.dtype.kind not in "biuf":
            raise InputError(f"{path} holds {array.dtype}; the inputs of a model are numbers. Save it as float32.")
        if not array.ndim or not array.size:
            shape = array.shape
            raise InputError(f"{path} holds no example: its shape is {shape}. The first axis counts the examples.")
    if len(lengths := {len(array) for array in arrays}) != 1:
        counts = sorted(lengths)
        raise InputError(f"{path} holds {len(arrays)} arrays of {counts} examples; they must be equally many.")
    return [array.astype(np.float32) if array.dtype == np.float64 else array for array in arrays]


def _loaded(path: pathlib.Path) -> list[np.ndarray]:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.ndarray):
        return [found]
    with found:
        return [found[name] for name in found.files]


def chunks(arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The examples, some at a time."""
    for start in range(0, len(arrays[0]), BATCH):
        yield [array[start : start + BATCH] for array in arrays]


def refuse_non_finite(path: pathlib.Path, arrays: Sequence[np.ndarray]) -> None:
    """Raise InputError for NaN and infinities: no integer stands for them."""
    for i, array in enumerate(arrays):
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise InputError(f"{path}: input {i} holds {bad} of {array.size} values that are NaN or infinite.")


def file_batches(program: Program, arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The examples in the program's own types, in batches where it takes them. Raises InputError."""
    tensors = [program.tensors[index] for index in program.inputs]
    if len(arrays) != len(tensors):
        names = ", ".join(f"{t.name}: {describe(t)}" for t in tensors)
        raise InputError(f"The data has {len(arrays)} arrays; the file has {len(tensors)} inputs ({names}).")
    for array, tensor in zip(arrays, tensors, strict=True):
        if array.shape != tensor.shape and (tensor.shape[:1] != (1,) or array.shape[1:] != tensor.shape[1:]):
            raise InputError(f"The data for {tensor.name!r} is {array.shape}; the file says {tensor.shape}.")
    whole = any(tensor.shape[:1] != (1,) for tensor in tensors)
    for batch in [list(arrays)] if whole else chunks(arrays):
        yield [_as_stored(tensor, array) for tensor, array in zip(tensors, batch, strict=True)]


def _as_stored(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """One input in the file's type: as it is, or real numbers quantized by the tensor's parameters."""
    array, dtype, q = np.asarray(array), _dtype(tensor), tensor.quantization
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "f" and dtype.kind == "f":
        return array.astype(dtype)
    if array.dtype.kind == "f" and dtype.kind in "iu" and q is not None and q.scale.size == 1:
        inverse, bounds = np.float32(1) / q.scale[0], np.iinfo(dtype)
        integers = np.rint(array.astype(np.float32) * inverse) + np.float32(q.zero_point[0])
        return np.clip(integers, bounds.min, bounds.max).astype(dtype)
    raise InputError(
        f"The data for {tensor.name!r} is {array.dtype}; the file says {describe(tensor)}. Give {dtype} values"
        + (", or floats, which are quantized by these parameters." if q is not None and q.scale.size else ".")
    )


def _dtype(tensor: Tensor) -> np.dtype:
    if tensor.dtype in ("string", "int4"):
        raise InputError(f"Input {tensor.name!r} is {describe(tensor)}; jaxq runs no file with {tensor.dtype} inputs.")
    return np.dtype(tensor.dtype)


def random_batches(program: Program, count: int, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Random inputs, the same at each call.

    All integers of a quantized input, normal floats, and 0 and 1 for the rest (token ids, masks).
    """
    rng = np.random.default_rng(seed)
    tensors = [program.tensors[index] for index in program.inputs]
    if any(tensor.shape[:1] != (1,) for tensor in tensors):
        yield from ([_drawn(rng, t, t.shape) for t in tensors] for _ in range(count))
        return
    for start in range(0, count, BATCH):
        yield [_drawn(rng, t, (min(BATCH, count - start), *t.shape[1:])) for t in tensors]


def _drawn(rng: np.random.Generator, tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    dtype = _dtype(tensor)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if tensor.dtype in ("int8", "uint8", "int16") and tensor.quantization is not None:
        bounds = np.iinfo(dtype)
        return rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
    return rng.integers(0, 2, shape).astype(dtype)
