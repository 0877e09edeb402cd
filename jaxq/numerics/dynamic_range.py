"""Activations quantized on the device by the range that it sees (dynamic range): float32 in, integers and scale out.

A kernel of int8 weights and float activations finds the least and the greatest of its input's numbers, zero included,
makes int8 of them, sums products in int32 and goes back to float32 with one scale a row. Training and export both run
this file. Three ways, each number for number the runtime's:

- `by_reciprocal`: XNNPACK, float32 throughout (src/xnnpack/quantization.h, f32-qs8-vcvt).
- `asymmetric`: TFLite's builtin AsymmetricQuantizeFloats, whose zero point is formed in float64
  (tflite/kernels/internal/optimized/neon_tensor_utils.cc). Numbers of 24 bits never come so close to a tie that
  float64 would mistake it; here the quotient is formed exactly, in integers.
- `symmetric`: TFLite's SymmetricQuantizeFloats, [-127, 127].

Gradients are straight-through: that of the input, unclipped, for the range holds all of it; scales are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxq.numerics.fixed_point import mantissa, quotient
from jaxq.numerics.rounding import round_away, straight_through, true_divide, unfused

LEAST, GREATEST = -128.0, 127.0


class Dynamic(NamedTuple):
    """Integers with the zero point removed, in float32, and their scale, of size 1 along the reduced axes."""

    q: Float[Array, "..."]
    scale: Float[Array, "..."]


def by_reciprocal(x: Array, axes: tuple[int, ...]) -> Dynamic:
    """`clip(rint(x m) + z, -128, 127) - z` with `m = 255 / (max - min)` and `z = rint(-128 - min m)`; scale `1 / m`.

    axes: those over which a range is taken. The end that rounds less decides the zero point.
    """
    low, high = _range(x, axes)
    m = jnp.where(low == high, 1.0, true_divide(jnp.full_like(low, 255.0), jnp.where(low == high, 1.0, high - low)))
    from_low, from_high = unfused(low * m), unfused(high * m)
    nearer_low = (LEAST + from_low) + (GREATEST + from_high) > 0
    zero = jnp.round(jnp.clip(jnp.where(nearer_low, LEAST - from_low, GREATEST - from_high), LEAST, GREATEST))
    return Dynamic(_clipped(x, m, jnp.round, LEAST - zero, GREATEST - zero), true_divide(jnp.ones_like(m), m))


def asymmetric(x: Array, axes: tuple[int, ...]) -> Dynamic:
    """`clip(round(x / s) + z, -128, 127) - z` with `s = (max - min) / 255`, ties away from zero; 1 / s is rounded."""
    low, high = _range(x, axes)
    none = low == high
    width = jnp.where(none, 1.0, high - low)
    scale = jnp.where(none, 1.0, true_divide(width, jnp.full_like(width, 255.0)))
    below, below_half = _steps(-low, width, 64)
    above, above_half = _steps(high, width, 63)
    from_low = -128 + below + ((below_half > 0) | ((below_half == 0) & (below >= 128))).astype(jnp.int32)
    from_high = 127 - above - ((above_half > 0) | ((above_half == 0) & (above >= 127))).astype(jnp.int32)
    nearer_low = 128.0 - true_divide(low, scale) < 127.0 + true_divide(high, scale)
    zero = jnp.clip(jnp.where(none, 0, jnp.where(nearer_low, from_low, from_high)), -128, 127).astype(jnp.float32)
    inverse = true_divide(jnp.ones_like(scale), scale)
    return Dynamic(_clipped(x, inverse, round_away, LEAST - zero, GREATEST - zero), scale)


def symmetric(x: Array, axes: tuple[int, ...]) -> Dynamic:
    """`clip(round(x (127 / max|x|)), -127, 127)`, ties away from zero; scale `max|x| / 127`."""
    low, high = _range(x, axes)
    bound = jnp.maximum(-low, high)
    none = bound == 0.0
    full = jnp.full_like(bound, 127.0)
    scale = jnp.where(none, 1.0, true_divide(bound, full))
    inverse = true_divide(full, jnp.where(none, 127.0, bound))
    return Dynamic(_clipped(x, inverse, round_away, jnp.float32(-127.0), jnp.float32(127.0)), scale)


def _range(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The least and the greatest number, zero included."""
    x = lax.stop_gradient(x)
    low, high = jnp.min(x, axes, keepdims=True), jnp.max(x, axes, keepdims=True)
    return jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)


def _steps(bound: Array, width: Array, least: int) -> tuple[Array, Array]:
    """`floor(255 bound / width)`, and whether the rest is below (-1), at (0) or above (1) a half. int32.

    The quotient is exact but for a tie: there it is float64's, where `least` half steps or more leave that to be seen.
    """
    (m_a, e_a), (m_b, e_b), (m_c, e_c) = (mantissa(v) for v in (bound, jnp.full_like(bound, 255.0), width))
    whole, fraction, inexact = quotient(m_a, m_b, m_c)
    places = -(e_a + e_b - e_c)  # behind the point of the whole part: the quotient is at most 255, so 15 or more
    kept = jnp.clip(places, 1, 30)
    half, rest = jnp.int32(1) << (kept - 1), whole & ((jnp.int32(1) << kept) - 1)
    floor = whole >> kept
    more = jnp.where((fraction != 0) | inexact, 1, jnp.where(floor >= least, _float64_side(floor, m_c), 0))
    side = jnp.where(rest > half, 1, jnp.where(rest < half, -1, more))
    nothing = (places > 30) | (bound <= 0.0)
    return jnp.where(nothing, 0, floor), jnp.where(nothing, -1, side)


def _float64_side(floor: Array, width: Array) -> Array:
    """The side of `t = floor + 1/2` on which float64 sees `bound / (width / 255)` where it is t exactly. int32.

    `width / 255` is rounded to 53 bits: with the width's mantissa m of 24 bits, `m 2^k = 255 S + r`. The quotient by S
    is `t (1 + r / (255 S))`, and leaves t for its neighbour when that is more than half a unit in the last place.
    """
    k = jnp.where(width >= 255 << 16, 36, 37)
    rest = (width << (k - 32)) % 255  # 2^8 is 1 modulo 255
    rest = jnp.where(rest > 127, rest - 255, rest)
    leading = 2.0 * jnp.frexp(floor.astype(jnp.float32) + 0.5)[0]
    far = jnp.abs(rest).astype(jnp.float32) * leading * jnp.where(k == 36, 2.0**17, 2.0**16) > width.astype(jnp.float32)
    return jnp.where(far, jnp.sign(rest), 0)


def _clipped(x: Array, factor: Array, rounding: Callable[[Array], Array], low: Array, high: Array) -> Array:
    steps = x * unfused(factor)  # else XLA may divide by what it is the reciprocal of
    rounded = unfused(lax.stop_gradient(steps))  # else `x factor - trunc(x factor)` may be rounded once, and miss a tie
    return straight_through(jnp.clip(rounding(rounded), low, high), steps)


# --- back to float32 ------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How a kernel quantizes its input, and how it brings the sum back: scale(sum, s_x, s_w), before the bias.

    Each of TFLite's kernels has an order of its own. XNNPACK rounds its last multiplication and the addition of the
    bias once, on chips that can; XLA does as well. The others round them apart.
    """

    quantize: Callable[[Array, tuple[int, ...]], Dynamic]
    scale: Callable[[Array, Array, Array], Array]


def _in_vectors(total: Array, s_x: Array, s_w: Array) -> Array:
    """`total s_w s_x`; of the channels behind the last four together `total s_x s_w`."""
    channels = total.shape[-1]
    together = jnp.arange(channels) < channels // 4 * 4
    return unfused(jnp.where(together, (total * s_w) * s_x, (total * s_x) * s_w))


XNNPACK = Way(by_reciprocal, lambda total, s_x, s_w: (total * s_x) * s_w)
SYMMETRIC = Way(symmetric, lambda total, s_x, s_w: unfused(total * (s_x * s_w)))
ASYMMETRIC = Way(asymmetric, lambda total, s_x, s_w: unfused(total * (s_x * s_w)))
ASYMMETRIC_IN_TURN = Way(asymmetric, lambda total, s_x, s_w: unfused((total * s_w) * s_x))
ASYMMETRIC_IN_VECTORS = Way(asymmetric, _in_vectors)  # optimized/integer_ops/depthwise_conv_hybrid.h
