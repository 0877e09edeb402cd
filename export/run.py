"""The file run on the arguments of the model: its outputs in the shapes that the model gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.errors import InputError
from jaxq.export.io_formulas import dequantized, quantized
from jaxq.export.runtimes import litert
from jaxq.frontends.batches import batch_arguments, file_chunks
from jaxq.frontends.call import places
from jaxq.frontends.core import Bound
from jaxq.graph.mixing import Held, Place


def outputs_of(
    data: bytes, manifest: Mapping[str, Any], bound: Bound, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[np.ndarray]:
    """The file's outputs for a call of the model, real numbers, each as the model gives it for all examples.

    Args:
      data: the .tflite file. manifest: with the formulas of its ends.
      bound: the model that the file was made of.
      args, kwargs: the model's arguments, or all arrays by position in the file's order.
    """
    called = _as_called(bound, args, kwargs)
    results: list[list[np.ndarray]] = []  # of each run of the file, its outputs
    for arrays in file_chunks(bound, called, "run on"):
        integers = [quantized(a, entry) for a, entry in zip(arrays, manifest["inputs"], strict=True)]
        results += litert.run_apart(data, integers, "xnnpack")
    if not results:
        raise InputError("There is no example to run on: the batch is empty.")
    stored = [*zip(*results, strict=True)]
    held = _places(bound, called, [parts[0].shape for parts in stored]) if len(results) > 1 else [None for _ in stored]
    ends = zip(manifest["outputs"], held, stored, strict=True)
    return [dequantized(_whole(place, parts), entry) for entry, place, parts in ends]


def _places(bound: Bound, called: tuple[Any, ...], shapes: Sequence[tuple[int, ...]]) -> list[Place]:
    """Where each output holds the examples; None where it is the same for all. shapes: in the file."""
    places = bound.captured().places
    wanted = _shapes_of_all(bound, called) if "unknown" in places else []
    ends = enumerate(zip(places, shapes, bound.core.plan.graph.ends[1], strict=True))
    by_shape = {i: _by_shape(name, shape, wanted[i] if wanted else None)
                for i, (place, shape, name) in ends if place == "unknown"}  # fmt: skip
    return [by_shape.get(i) if isinstance(place, str) else place for i, place in enumerate(places)]


def _shapes_of_all(bound: Bound, called: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The shapes of the model's outputs for all examples; none where the model takes the file's batch alone."""
    try:
        return [out.shape for out in jax.eval_shape(bound.outputs, *bound.core.arrays(*batch_arguments(bound, called)))]
    except Exception:  # whatever the user's function raises
        return []


def _by_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> Held:
    """The one axis that is longer for all examples; the first where that is not known (None)."""
    longer = [0] if wanted is None else [i for i, (a, b) in enumerate(zip(shape, wanted, strict=True)) if a != b]
    if len(longer) != 1:
        raise InputError(
            f"The output {name!r} is {list(shape)} in the file and {list(wanted or ())} for these examples: where each "
            "example stands is not known. Run the file on one example at a time."
        )
    return Held(longer[0])


def _as_called(bound: Bound, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments as a batch of the model."""
    core = bound.core
    if places(*core.as_example(args, kwargs)) == places(*core.example):
        return (*args, dict(kwargs)) if kwargs else tuple(args)
    arrays = [np.asarray(a) for a in jax.tree.leaves((args, kwargs), is_leaf=lambda given: isinstance(given, list))]
    known = places(*core.example)
    if len(arrays) != len(known):
        names = core.plan.graph.ends[0]
        raise InputError(f"The file has {len(known)} inputs, {', '.join(names)}; {len(arrays)} were given.")
    args, kwargs = core.with_arrays(arrays)
    return (*args, dict(kwargs)) if kwargs else args


def _whole(place: Place, parts: Sequence[np.ndarray]) -> np.ndarray:
    """One output of all examples from that of each run, in the file's shape."""
    if place is None or len(parts) == 1:
        return parts[0]
    shape, axis = parts[0].shape, place.axis
    inner = (place.before, shape[axis] // (place.before * place.after), place.after)
    apart = [part.reshape(*shape[:axis], *inner, *shape[axis + 1 :]) for part in parts]
    joined = np.concatenate(apart, axis + 1)
    return joined.reshape(*shape[:axis], shape[axis] * len(parts), *shape[axis + 1 :])
