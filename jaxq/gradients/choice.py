"""Which way of computing a product of int8 integers is faster where: the measured thresholds of `compute="auto"`.

| machine | product | way | measured |
| --- | --- | --- | --- |
| CPU | matrix products | int8 | 0.55-0.87 of float32's time (256 to 2,048, VNNI) |
| CPU | convolutions, one group | int8 | 0.21-0.92 |
| CPU | grouped convolutions | carriers | int8 takes 1.16-1.18 of float32's time |
| GPU | all | carriers | int8 with its rounding ran at 0.24-0.83 of bfloat16's rate on an H200 (1,024 to 8,192) |
| TPU | matrix products; convolutions | int8; carriers | not measured |

`benchmarks/int8_training.py` and `benchmarks/int8_gpu.py` print the figures.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxq.gradients.geometry import Geometry

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
    return "int8" if backend == "tpu" and shape.kind == "dot_general" else "carriers"


def taps_fit(shape: Geometry) -> bool:
    """Whether a convolution is computed as a sum of matrix products over the taps of its window."""
    return shape.groups == 1 and shape.window <= MOST_TAPS
