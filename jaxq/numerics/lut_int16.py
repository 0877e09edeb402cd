"""LOGISTIC, TANH and SOFTMAX of 16 bits in TFLite's integers: tables with interpolation, in int32 alone.

Training traces these functions on a scale that moves, export runs them on the file's: both get the same integers.
Sources: tflite/kernels/{activations.cc,internal/reference/integer_ops/{logistic,tanh}.h,internal/reference/softmax.h},
tflite/kernels/internal/common.h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.numerics.fixed_point import mantissa, quantized_ratio, rescale_half_away
from jaxq.numerics.rounding import round_away

STEPS = 24  # entries of the sigmoid's table a unit
HIGHEST = 32767


@functools.cache
def sigmoid_table() -> np.ndarray:
    """TFLite's `sigmoid_table_uint16`, int32 (256,): `65536 (f + |f''| h^2 / 16)` at `i h`, `h = 1 / 24`, rounded.

    The second term puts the chords between entries as far above the curve as below it. The last entry is 65,535.
    """
    f = 1.0 / (1.0 + np.exp(-np.arange(256) / STEPS))
    bend = f * (1 - f) * (2 * f - 1) / (16 * STEPS**2)
    table = np.floor(65536 * (f + bend) + 0.5).astype(np.int32)
    table[-1] = 65535
    return table


def multiplier(scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`trunc(3 2^12 s 2^shift)` in (16383.5, 32767] and the shift, int32: to steps of a 3 * 4096th. s <= 1.33."""
    m, exponent = mantissa(jnp.asarray(scale, jnp.float32))
    tripled = 3 * m  # s 3 2^12 = tripled 2^(exponent + 12), and tripled lies in [3 2^23, 3 2^24)
    low = tripled <= 32767 << 10
    return jnp.where(low, tripled >> 10, tripled >> 11), -(exponent + 12) - jnp.where(low, 10, 11)


def logistic(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """`32768 / (1 + exp(-x s))` of int32 x in [-32768, 32767] by `multiplier(s)`, in [0, 32767]."""
    fine = _scaled(x, factor, shift)
    magnitude = jnp.abs(fine)
    at, rest = magnitude >> 9, magnitude & 511
    inside = _interpolated(at, rest, 9)
    result = jnp.where(at >= 255, HIGHEST << 10, inside)
    return jnp.where(fine >= 0, result + (1 << 9), (1 << 25) - result + (1 << 9) - 1) >> 10


def tanh(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """`32768 tanh(x s)` by `multiplier(s)`, as `2 logistic(2 x s) - 1`, in [-32768, 32767]."""
    fine = _scaled(x, factor, shift)
    magnitude = jnp.abs(fine)
    at, rest = magnitude >> 8, magnitude & 255
    result = jnp.where(at >= 255, 0xFFFF << 8, _interpolated(at, rest, 8))
    return jnp.where(fine >= 0, result - (1 << 23) + (1 << 7), -result + (1 << 23) + (1 << 7) - 1) >> 8


def _scaled(x: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    half = jnp.where(shift > 0, jnp.int32(1) << jnp.maximum(shift - 1, 0), 0)
    return (x * factor + half) >> shift


def _interpolated(at: jax.Array, rest: jax.Array, bits: int) -> jax.Array:
    table = jnp.asarray(sigmoid_table())
    at = jnp.minimum(at, 254)
    return (table[at] << bits) + rest * (table[at + 1] - table[at])


# --- SOFTMAX --------------------------------------------------------------------------------------------------------


def interpolating_table(
    real: Callable[[np.ndarray], np.ndarray], low: float, high: float, dtype: type[np.floating] = np.float64
) -> np.ndarray:
    """`32767.5 real(x)` at 513 points of [low, high], int32, less half the error of the middle (LUTPopulate).

    dtype: in which the steps are rounded; float64 in LiteRT, float32 in TFLite Micro.
    """
    unit, places = dtype(2.0) / dtype(65535), np.arange(513).astype(dtype)
    step = (dtype(high) - dtype(low)) / dtype(512)
    x = dtype(low) + places * step
    inverse = dtype(65536) / (unit * dtype(32767) - unit * dtype(-32768))
    values, middle = real(x) * inverse, round_away(real(x[:-1] + step / dtype(2)) * inverse)
    error = round_away((values[1:] + round_away(values[:-1])) / dtype(2)) - middle
    entries = round_away(values) - np.append(round_away(error / 2), 0.0)
    return np.clip(entries, -32768, HIGHEST).astype(np.int32)


@functools.cache
def softmax_tables(dtype: type[np.floating] = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """exp on [-10, 0] and 1 / (1 + x) on [0, 1]."""
    ten, one, codes = dtype(10) / dtype(65535), dtype(1) / dtype(65535), dtype(65535)
    return (
        interpolating_table(lambda x: np.exp(x.astype(np.float64)).astype(dtype), float(ten * -codes), 0.0, dtype),
        interpolating_table(lambda x: dtype(1) / (dtype(1) + x), 0.0, float(one * codes), dtype),
    )


def look_up(table: np.ndarray, x: jax.Array) -> jax.Array:
    """A table of 513 entries at int32 x in [-32768, 32767]: nine bits choose, seven interpolate."""
    entries = jnp.asarray(table)
    at = 256 + (x >> 7)
    return entries[at] + (((entries[at + 1] - entries[at]) * (x & 127) + 64) >> 7)


def softmax(x: jax.Array, factor: jax.Array, shift: jax.Array, dtype: type[np.floating] = np.float64) -> jax.Array:
    """`32768 softmax(x s)` over the last axis, of int32 x, by `softmax_multiplier(s)`, by tables of dtype."""
    exp, reciprocal = softmax_tables(dtype)
    scaled = rescale_half_away(x - x.max(axis=-1, keepdims=True), factor, shift)
    exps = look_up(exp, jnp.clip(scaled + HIGHEST, -32768, HIGHEST))
    total = exps.sum(axis=-1, keepdims=True)
    zeros = lax.clz(total)
    normal = (((total.astype(jnp.uint32) << (zeros - 1).astype(jnp.uint32)) + (1 << 13)) >> 14).astype(jnp.int32)
    inverse = look_up(reciprocal, jnp.clip(normal - (1 << 15) - (1 << 16), -32768, HIGHEST))
    places = 31 - zeros
    return jnp.clip((exps * inverse + (jnp.int32(1) << (places - 1))) >> places, 0, HIGHEST)


def softmax_multiplier(scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The multiplier of `s / (10 / 65535)`: 65,535 steps are ten."""
    scale = jnp.asarray(scale, jnp.float32)
    return quantized_ratio(scale, jnp.full_like(scale, 6553.5), jnp.ones_like(scale))
