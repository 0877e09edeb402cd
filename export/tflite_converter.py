"""TensorFlow's own int8 files of a float model, to measure jaxq's beside them: jax2tf, then TFLiteConverter.

TensorFlow and jax2tf are imported when `convert` is called.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.runtimes.interpreters import INTERPRETERS
from jaxq.frontends.batches import in_chunks
from jaxq.plan.recipe import Recipe, read_recipe

# What the converter is told, by the bits of activations and weights and whether activations are quantized as they run:
# an operator set, and the types that weights may have. Nothing for floats.
SETTINGS: dict[tuple[int, int, bool], tuple[str | None, str | None]] = {
    (8, 8, False): ("TFLITE_BUILTINS_INT8", None),
    (16, 8, False): ("EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8", None),
    (32, 8, True): (None, None),
    (32, 16, False): (None, "float16"),
    (32, 32, False): (None, None),
}
QUIET = "TF_CPP_MIN_LOG_LEVEL"


class Ends(NamedTuple):
    """The element types of a file's inputs and outputs, of those that are real numbers."""

    input: str
    output: str


def convert(
    function: Callable[..., Any],
    example: Sequence[Any],
    recipe: Recipe | str,
    samples: Iterable[Sequence[np.ndarray]] = (),
) -> bytes:
    """Convert a float function as TFLiteConverter does, with the settings that come nearest to a recipe.

    Bits, dynamic range and the types of the ends are the recipe's; rules, range methods and passes are jaxq's alone.
    Ranges are the minimum and maximum of the samples, the converter's only method.

    Args:
      function: of arrays, to an array or a pytree of arrays. It is traced once, in floats.
      example: an array, or its shape and dtype, for each argument: the file's static shapes.
      recipe: a Recipe or the name of a shipped one.
      samples: batches of examples to calibrate on, an array [examples, ...] for each argument. Recipes of float
        activations need none.

    Returns:
      The bytes of the file; its inputs and outputs are in the order of the arguments and of the leaves of the result.

    Raises:
      ExportError: TensorFlow is missing, the converter has no such recipe, or it refuses the function.
    """
    read = read_recipe(recipe)
    operators, weights = settings(read)
    tf = tensorflow()
    converter = _converter(tf, function, example)
    if not (read.floats and read.weights.bits == 32):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if operators is not None:
        converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, operators)]
        converter.representative_dataset = lambda: rows(samples, example)
        converter.inference_input_type, converter.inference_output_type = (getattr(tf, end) for end in ends(read))
    if weights is not None:
        converter.target_spec.supported_types = [getattr(tf, weights)]
    return _converted(converter)


def settings(recipe: Recipe) -> tuple[str | None, str | None]:
    """The operator set and the type of weights for a recipe. Raises ExportError for one without a counterpart."""
    key = (recipe.activations.bits, recipe.weights.bits, recipe.activations.dynamic)
    if key not in SETTINGS:
        known = "int8, int16x8, dynamic-range-int8, float16 and float32"
        raise ExportError(
            f"TFLiteConverter has no counterpart of the recipe {recipe.name!r} (weights of {recipe.weights.bits} bits, "
            f"activations of {recipe.activations.bits}). It has those of {known}."
        )
    return SETTINGS[key]


def ends(recipe: Recipe) -> Ends:
    """The types of a file's ends: those of the recipe, where activations have 16 bits int16 for int8."""
    wide = {"int8": "int16"} if recipe.activations.bits == 16 else {}
    return Ends(*(wide.get(end, end) for end in (recipe.input, recipe.output)))


def tensorflow() -> Any:
    """The module, importing it without its start-up messages. Raises ExportError with pip's line."""
    os.environ.setdefault(QUIET, "2")  # of the C++ library: errors alone
    try:
        import tensorflow as tf
    except ImportError as error:
        raise INTERPRETERS["tf.lite"].missing() from error
    return tf


def _converter(tf: Any, function: Callable[..., Any], example: Sequence[Any]) -> Any:
    from jax.experimental import jax2tf

    def named(**arrays: Any) -> dict[str, Any]:  # TensorFlow orders the ends by their names
        leaves = jax.tree.leaves(function(*(arrays[name] for name in sorted(arrays))))
        return {f"output_{i:04d}": leaf for i, leaf in enumerate(leaves)}

    specs = {f"input_{i:04d}": tf.TensorSpec(a.shape, a.dtype, name=f"input_{i:04d}") for i, a in enumerate(example)}
    converted = tf.function(jax2tf.convert(named, with_gradient=False), autograph=False)
    return tf.lite.TFLiteConverter.from_concrete_functions([converted.get_concrete_function(**specs)], converted)


def rows(samples: Iterable[Sequence[np.ndarray]], example: Sequence[Any]) -> Iterator[list[np.ndarray]]:
    """The samples in the file's shapes: of a batch of 1 one at a time; an input without a batch whole each time."""
    for arrays in samples:
        batched = [a.shape != tuple(e.shape) for a, e in zip(arrays, example, strict=True)]
        size = next((e.shape[0] for e, own in zip(example, batched, strict=True) if own), 1)
        for parts in in_chunks(arrays, batched, size):
            if all(a.shape == tuple(e.shape) for a, e in zip(parts, example, strict=True)):  # none is left over
                yield [np.asarray(a, e.dtype) for a, e in zip(parts, example, strict=True)]


def _converted(converter: Any) -> bytes:
    """The file. The converter's own errors are one text, whose first line says what it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of statistics that the samples take the place of
            return converter.convert()
    except Exception as error:  # it raises what its layers raise: ConverterError, ValueError, RuntimeError
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"TFLiteConverter does not convert this model: {first.strip()}") from error
