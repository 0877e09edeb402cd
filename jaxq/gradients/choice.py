"""Which way of computing a product of int8 integers is faster where: the measured thresholds of `compute="auto"`.

| machine | product | way | measured |
| --- | --- | --- | --- |
| CPU with VNNI | matrix products | int8 | 0.55-0.87 of float32's time (256 to 2,048) |
| CPU with VNNI | convolutions, one group | int8 | 0.21-0.92 |
| CPU without | both | carriers | int8 takes 1.4-1.5 of the carriers' time; convolutions 6-10 (AMD EPYC, AVX2) |
| CPU | depthwise convolutions | carriers by taps | 0.02-0.09 of XLA's grouped convolution in float32 |
| CPU | other grouped convolutions | carriers | int8 takes 1.16-1.18 of float32's time |
| GPU | all | carriers | int8 with its rounding ran at 0.24-0.83 of bfloat16's rate on an H200 (1,024 to 8,192) |
| TPU | matrix products; convolutions | int8; carriers | not measured |

`benchmarks/int8_training.py` and `benchmarks/int8_gpu.py` print the figures.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxq.gradients.geometry import Geometry

# The longest sum of products of int8 that an int32 holds whatever they are: 2^31 / 127^2.
LONGEST_SUM = (2**31 - 1) // 127**2

# Windows of so many taps or fewer are computed as a sum over taps: beyond it the image is read too often.
MOST_TAPS = 49


# Of Linux on x86-64, what says that the processor adds four products of bytes at once.
VNNI = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8"})
CPUINFO = pathlib.Path("/proc/cpuinfo")


def carrier_dtype() -> Any:
    """The floating type that int8 integers are multiplied in: exact, and fast here."""
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def way_for(shape: Geometry, which: int, compute: str) -> str:
    """ "int8", "taps", "carriers" or "carriers by taps" for the forward product (`which` 0), the input's (1) and the
    weight's gradient (2).

    A sum that an int32 may not hold runs on carriers, also where `compute` is "int8".
    """
    backend = jax.default_backend()
    carriers = "carriers by taps" if backend == "cpu" and shape.is_depthwise and taps_fit(shape) else "carriers"
    if compute == "carriers" or shape.sum_lengths[which] > LONGEST_SUM:
        return carriers
    if compute == "int8":
        return "taps" if backend == "gpu" and taps_fit(shape) else "int8"
    if backend == "cpu":
        return "int8" if shape.groups == 1 and multiplies_bytes(CPUINFO) else carriers
    return "int8" if backend == "tpu" and shape.kind == "dot_general" else carriers


@functools.cache
def multiplies_bytes(cpuinfo: pathlib.Path) -> bool:
    """Whether a processor that describes itself so has VNNI; where there is no such file it is not known, and no."""
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else ()
    return any(line.startswith("flags") and not VNNI.isdisjoint(line.split()) for line in lines)


def taps_fit(shape: Geometry) -> bool:
    """Whether a convolution is computed as a sum over the taps of its window."""
    of_kind = shape.kind == "conv_general_dilated" and (shape.groups == 1 or shape.is_depthwise)
    return of_kind and shape.window <= MOST_TAPS
