"""Fixed-point arithmetic of TFLite's integer kernels (gemmlowp), in int32 alone: JAX needs no 64-bit mode.

The released LiteRT, tf.lite and TFLite Micro round twice: once in the doubling high multiply, once in the
shift. Sources: gemmlowp/fixedpoint/fixedpoint.h, tflite/kernels/internal/{quantization_util.cc,common.h}.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.numerics.fixed_point import (
    INT32_MAX,
    INT32_MIN,
    divide_towards_zero,
    hard_swish,
    high_and_low,
    rescale_once,
    rounding_divide_by_pot,
    saturate16,
    srdhm,
    srdhm16,
)
from jaxq.numerics.rounding import round_away

Multiplier = tuple[np.ndarray, np.ndarray]  # (q, shift) of `quantize_multiplier`

# The training forward's as well.
__all__ = [
    "divide_towards_zero",
    "hard_swish",
    "high_and_low",
    "rounding_divide_by_pot",
    "saturate16",
    "srdhm",
    "srdhm16",
]


def quantize_multiplier(real: np.ndarray | float | np.floating) -> tuple[np.ndarray, np.ndarray]:
    """`real = q * 2^(shift - 31)` with q in [2^30, 2^31), on the host (TFLite QuantizeMultiplier).

    `real`: float64 >= 0, any shape. Returns int32 arrays (q, shift) of that shape.
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))
    q = np.floor(fraction * (1 << 31) + 0.5).astype(np.int64)
    carried = q == 1 << 31  # the fraction rounded up to 1
    q, exponent = np.where(carried, q // 2, q), exponent + carried
    tiny = exponent < -31
    return np.where(tiny, 0, q).astype(np.int32), np.where(tiny, 0, exponent).astype(np.int32)


def apart(x: jax.Array) -> jax.Array:
    """`x`, held in memory. XLA would compute a chain of n products, each read several times, 4^n times over: it then
    compiles for minutes (jaxlib 0.12).
    """
    return lax.optimization_barrier(x)


def multiply_by_quantized_multiplier(x: jax.Array, multiplier: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """`x * q * 2^(shift - 31)`, rounded twice (TFLite MultiplyByQuantizedMultiplier, MBQM).

    `x`: int32. `multiplier`: (q, shift) of `quantize_multiplier`, scalars or vectors that broadcast against
    x's last axes.
    """
    q, shift = multiplier
    left, right = _shifts(shift)
    return rounding_divide_by_pot(srdhm(x << jnp.asarray(left, jnp.int32), q), right)


def _shifts(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(np.maximum(shift, 0)), np.asarray(np.maximum(-shift, 0))


def multiply_rounding_up(x: jax.Array, multiplier: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """As `multiply_by_quantized_multiplier`, but the shift rounds half towards +infinity (NEON's and ruy's
    vrshl).
    """
    q, shift = multiplier
    left, right = _shifts(shift)
    half = np.where(right > 0, 1 << np.maximum(right - 1, 0), 0)
    return (srdhm(x << jnp.asarray(left, jnp.int32), q) + jnp.asarray(half, jnp.int32)) >> jnp.asarray(right, jnp.int32)


def multiply_rounding_once(x: jax.Array, multiplier: Multiplier) -> jax.Array:
    """As `multiply_rounding_up`, but the product is rounded once, in the shift (ruy on aarch64)."""
    q, shift = multiplier
    return rescale_once(x, jnp.asarray(q, jnp.int32), jnp.asarray(shift, jnp.int32))


def saturating_shift_left(x: jax.Array, exponent: int) -> jax.Array:
    """`x * 2^exponent`, saturated to int32 (gemmlowp SaturatingRoundingMultiplyByPOT, exponent > 0)."""
    limit = INT32_MAX >> exponent
    over, under = x > limit, x < -limit - 1
    return jnp.where(over, INT32_MAX, jnp.where(under, INT32_MIN, x << exponent))


def multiply_by_variable(x: jax.Array, q: jax.Array, shift: jax.Array) -> jax.Array:
    """`multiply_by_quantized_multiplier` with a multiplier computed at run time. int32, broadcast."""
    left, right = jnp.maximum(shift, 0), jnp.maximum(-shift, 0)
    return rounding_divide_by_pot(srdhm(x << left, q), right)


def inverse_square_root(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`1 / sqrt(x) = q * 2^(shift - 31)` by five Newton steps in Q3.28 (TFLite
    GetInvSqrtQuantizedMultiplierExp).

    `x`: int32 >= 0; 0 counts as 1. Returns int32 (q, shift).
    """
    divisions = (x >= 1 << 29).astype(jnp.int32)  # one division by 4 is enough below 2^31
    reduced = x >> (2 * divisions)
    pairs = jnp.maximum((lax.clz(jnp.maximum(reduced, 1)) - 1) // 2 - 1, 0)
    normal = reduced << (2 * pairs)
    q = srdhm(_newton(normal >> 1), 1518500250)  # times sqrt(1/2)
    right = 11 + divisions - pairs
    q = q << jnp.maximum(-right, 0)
    one = x <= 1
    return jnp.where(one, INT32_MAX, q), jnp.where(one, 0, -jnp.maximum(right, 0))


def _newton(x: jax.Array) -> jax.Array:
    """Five steps `y = 1.5 y - x/2 y^3` from y = 1; x and y in Q3.28."""
    half_x = rounding_divide_by_pot(x, 1)
    y = jnp.full_like(x, 1 << 28)
    for _ in range(5):
        cube = saturating_shift_left(srdhm(apart(srdhm(y, y)), y), 6)  # Q9 to Q3
        y = apart(saturating_shift_left(srdhm(y, (1 << 28) + (1 << 27)) - srdhm(half_x, apart(cube)), 3))  # Q6 to Q3
    return y


def double_thresholds(multiplier: np.ndarray, low: int, high: int) -> np.ndarray:
    """Smallest int32 `acc` with `round_half_away(float64(acc) * m) >= t`, for each t in low..high+1, on the
    host.

    It turns a requantization in float64 into integer comparisons. `multiplier`: float64 (channels,), > 0.
    Returns int32 (channels, high - low + 2); the first column is -2^31 and the last 2^31 - 1, so that both
    ends saturate.
    """
    m = np.asarray(multiplier, np.float64)[:, None]
    wanted = np.arange(low + 1, high + 1, dtype=np.float64)[None, :]
    guess = np.clip(np.ceil((wanted - 0.5) / m), INT32_MIN, INT32_MAX)
    for step in (-1.0, 1.0):  # the guess is off by one at most: the product rounds once
        guess = _first_reaching(guess, m, wanted, step)
    edge = np.ones((len(m), 1))
    return np.hstack([edge * INT32_MIN, np.clip(guess, INT32_MIN, INT32_MAX), edge * INT32_MAX]).astype(np.int32)


def _first_reaching(guess: np.ndarray, m: np.ndarray, wanted: np.ndarray, step: float) -> np.ndarray:
    candidates = (guess - 1, guess) if step < 0 else (guess, guess + 1)
    return np.where(round_away(candidates[0] * m) >= wanted, candidates[0], candidates[1])


def requantize_double(acc: jax.Array, multiplier: np.ndarray, low: int, high: int) -> jax.Array:
    """`clip(round_half_away(float64(acc) * m), low, high)` without float64 (BUILTIN_REF FULLY_CONNECTED).

    `acc`: int32 (..., channels). `multiplier`: float64 (channels,).
    """
    estimate = jnp.round(acc.astype(jnp.float32) * jnp.asarray(multiplier.astype(np.float32)))
    return corrected(acc, estimate, double_thresholds(multiplier, low, high), low, high)


def monotone_thresholds(reading: Callable[[np.ndarray], np.ndarray], low: int, high: int) -> np.ndarray:
    """As `double_thresholds` for any non-decreasing `reading` of int64 accumulators, by bisection on the host.

    It fixes float32 steps that a compiler might fuse. Returns int32 (1, high - low + 2).
    """
    wanted = np.arange(low + 1, high + 1)
    below, reaching = np.full(wanted.shape, INT32_MIN), np.full(wanted.shape, INT32_MAX)
    for _ in range(32):
        middle = (below + reaching) // 2
        reached = reading(middle) >= wanted
        below, reaching = np.where(reached, below, middle), np.where(reached, middle, reaching)
    return np.concatenate([[INT32_MIN], reaching, [INT32_MAX]]).astype(np.int32)[None]


def corrected(acc: jax.Array, estimate: jax.Array, thresholds: np.ndarray, low: int, high: int) -> jax.Array:
    """The exact integers in [low, high] of accumulators, from float estimates that are off by one at most.

    `acc`: int32 (..., channels). `thresholds`: (channels, high - low + 2), or one row for all. Returns int32.
    """
    table = jnp.asarray(thresholds)
    channel = jnp.arange(table.shape[0])
    guess = jnp.clip(estimate, low, high).astype(jnp.int32) - low
    above = table[channel, guess + 1]
    too_low = (acc >= above) & (above != INT32_MAX)  # INT32_MAX: out of reach
    too_high = acc < table[channel, guess]
    guess = guess + too_low.astype(jnp.int32) - too_high.astype(jnp.int32)
    return jnp.clip(guess, 0, high - low) + low
