"""Which way of computing a product of int8 integers is faster where: the measured thresholds of `compute="auto"`.

| machine | product | way | measured |
| --- | --- | --- | --- |
| CPU | matrix products | int8 | 0.55-0.87 of float32's time (256 to 2,048, VNNI) |
| CPU | convolutions, one group | int8 | 0.21-0.92 |
| CPU | grouped convolutions | carriers | int8 takes 1.16-1.18 of float32's time |
| GPU | matrix products of `GPU_PRODUCTS` multiply-adds or more, sizes multiples of 16 | int8 | below it bfloat16 wins |
| GPU | convolutions of that size, one group | int8, a sum over taps | XLA has no integer convolution on a GPU |
| GPU | all others | carriers | |
| TPU | matrix products; convolutions | int8; carriers | not measured |

`benchmarks/int8_training.py` and `benchmarks/int8_gpu.py` print the figures.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxq.gradients.geometry import Geometry

# Multiply-adds from which an int8 product on a GPU is faster than a bfloat16 one; each size a multiple of GPU_MULTIPLE.
GPU_PRODUCTS = 1_000_000_000
GPU_MULTIPLE = 16

# The longest sum of products of int8 that an int32 holds whatever they are: 2^31 / 127^2.
LONGEST_SUM = (2**31 - 1) // 127**2

# Windows of so many taps or fewer are computed as a sum over taps: beyond it a GPU reads the image too often.
MOST_TAPS = 49


def carrier_dtype() -> Any:
    """The floating type that int8 integers are multiplied in: exact, and fast here."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def way_for(shape: Geometry, which: int, compute: str) -> str:
    """ "int8", "taps" or "carriers" for the forward product (`which` 0), the input's (1) and the weight's gradient (2).

    A sum that an int32 may not hold runs on carriers, also where `compute` is "int8".
    """
    if compute == "carriers" or shape.sum_lengths[which] > LONGEST_SUM:
        return "carriers"
    backend = jax.default_backend()
    if compute == "int8":
        return "taps" if backend == "gpu" and shape.kind == "conv_general_dilated" and taps_fit(shape) else "int8"
    if backend == "cpu":
        return "int8" if shape.groups == 1 else "carriers"
    if backend == "gpu":
        return _on_gpu(shape)
    return "int8" if shape.kind == "dot_general" else "carriers"


def _on_gpu(shape: Geometry) -> str:
    if math.prod(shape.sum_lengths) < GPU_PRODUCTS or any(n % GPU_MULTIPLE for n in _inner_sizes(shape)):
        return "carriers"
    if shape.kind == "dot_general":
        return "int8"
    return "taps" if taps_fit(shape) else "carriers"


def _inner_sizes(shape: Geometry) -> tuple[int, ...]:
    """The sizes of the matrix products: summed over in y, dX and dW; of a convolution, of one tap."""
    inner, outer, rows = shape.sum_lengths
    return inner // shape.window, outer // shape.window, rows


def taps_fit(shape: Geometry) -> bool:
    """Whether a convolution is computed as a sum of matrix products over the taps of its window."""
    return shape.groups == 1 and shape.window <= MOST_TAPS
